// conv2d of 3x3 layers by Winograd, winograd_4x4.h: 6 blocks of 4x4 pixels x 16 channels, 16 products an
// instruction.
#include <arm_neon.h>

#include "cpu/conv2d/winograd_4x4.h"

namespace mbu {
namespace {

// Two registers make one of 32 bytes, as many as a word has bits.
struct NeonDot {
  struct Reg {
    uint8x16_t low, high;
  };
  using Mask = Reg;  // 0 or -1
  static constexpr int64_t kLanes = 8, kBytes = 32;
  static constexpr int kWords = 1, kGroup = 6, kOffset = 0;

  static MBU_INLINE Reg load(const void* p) {
    const auto* from = static_cast<const uint8_t*>(p);
    return {vld1q_u8(from), vld1q_u8(from + 16)};
  }
  static MBU_INLINE void store(void* p, Reg x) {
    auto* to = static_cast<uint8_t*>(p);
    vst1q_u8(to, x.low);
    vst1q_u8(to + 16, x.high);
  }
  static MBU_INLINE Reg both(uint8x16_t x) { return {x, x}; }
  static MBU_INLINE Reg bytes(int value) { return both(vdupq_n_u8(static_cast<uint8_t>(value))); }
  static MBU_INLINE Reg ints(int32_t value) { return both(vreinterpretq_u8_s32(vdupq_n_s32(value))); }
  static MBU_INLINE Reg add8(Reg a, Reg b) { return {vaddq_u8(a.low, b.low), vaddq_u8(a.high, b.high)}; }
  static MBU_INLINE Reg sub8(Reg a, Reg b) { return {vsubq_u8(a.low, b.low), vsubq_u8(a.high, b.high)}; }

  // f of the halves, as 32-bit numbers.
  template <class F>
  static MBU_INLINE Reg each32(Reg a, Reg b, const F& f) {
    const auto half = [&](uint8x16_t x, uint8x16_t y) MBU_LAMBDA {
      return vreinterpretq_u8_s32(f(vreinterpretq_s32_u8(x), vreinterpretq_s32_u8(y)));
    };
    return {half(a.low, b.low), half(a.high, b.high)};
  }
  static MBU_INLINE Reg add32(Reg a, Reg b) {
    return each32(a, b, [](int32x4_t x, int32x4_t y) MBU_LAMBDA { return vaddq_s32(x, y); });
  }
  static MBU_INLINE Reg sub32(Reg a, Reg b) {
    return each32(a, b, [](int32x4_t x, int32x4_t y) MBU_LAMBDA { return vsubq_s32(x, y); });
  }
  static MBU_INLINE Reg times32(Reg a, Reg b) {
    return each32(a, b, [](int32x4_t x, int32x4_t y) MBU_LAMBDA { return vmulq_s32(x, y); });
  }
  template <int kBits>
  static MBU_INLINE Reg left(Reg a) {
    return each32(a, a, [](int32x4_t x, int32x4_t) MBU_LAMBDA { return vshlq_n_s32(x, kBits); });
  }
  template <int kBits>
  static MBU_INLINE Reg right(Reg a) {
    return each32(a, a, [](int32x4_t x, int32x4_t) MBU_LAMBDA { return vshrq_n_s32(x, kBits); });
  }
  // Four bytes in every lane.
  static MBU_INLINE Reg repeat(const uint8_t* from) {
    return both(vreinterpretq_u8_s32(vld1q_dup_s32(reinterpret_cast<const int32_t*>(from))));
  }
  static MBU_INLINE Reg dot(Reg sum, Reg x, Reg weight) {
    const auto half = [](uint8x16_t s, uint8x16_t a, uint8x16_t b) MBU_LAMBDA {
      return vreinterpretq_u8_s32(
          vdotq_s32(vreinterpretq_s32_u8(s), vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b)));
    };
    return {half(sum.low, x.low, weight.low), half(sum.high, x.high, weight.high)};
  }

  template <int kCount>
  static MBU_INLINE Mask bits(const Word* from) {
    const uint8x16_t word = vreinterpretq_u8_u32(vdupq_n_u32(*from));
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    const uint8x16_t first = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
    return {vtstq_u8(vqtbl1q_u8(word, first), bit),
            vtstq_u8(vqtbl1q_u8(word, vaddq_u8(first, vdupq_n_u8(2))), bit)};
  }
  static MBU_INLINE Reg times(Mask mask, int value) {
    const uint8x16_t x = vdupq_n_u8(static_cast<uint8_t>(value));
    return {vandq_u8(mask.low, x), vandq_u8(mask.high, x)};
  }
  static MBU_INLINE Reg plus(Reg x, Mask mask, int value) { return add8(x, times(mask, value)); }
  template <int kCount>
  static MBU_INLINE void store_words(uint8_t* to, Reg x) {
    store(to, x);
  }

  // Byte `byte` of every lane, four times.
  static MBU_INLINE Reg spread(Reg x, int64_t byte) {
    const uint32x4_t first = {0, 0x04040404, 0x08080808, 0x0c0c0c0c};
    const uint8x16_t at = vaddq_u8(vreinterpretq_u8_u32(first), vdupq_n_u8(static_cast<uint8_t>(byte)));
    return {vqtbl1q_u8(x.low, at), vqtbl1q_u8(x.high, at)};
  }
  static MBU_INLINE Mask test(Reg x, Reg bit) {
    return {vtstq_u8(x.low, bit.low), vtstq_u8(x.high, bit.high)};
  }
  // value * -w
  static MBU_INLINE Reg weights(Mask mask, Mask sign, int value) {
    return sub8(times(mask, value), times(sign, 2 * value));
  }

  static MBU_INLINE void store_bits(uint8_t* to, Reg y, Reg most) {
    const auto bits = [](uint8x16_t a, uint8x16_t b, uint32x4_t bit) MBU_LAMBDA {
      return vandq_u32(vcleq_s32(vreinterpretq_s32_u8(a), vreinterpretq_s32_u8(b)), bit);
    };
    const uint32x4_t lower = {1, 2, 4, 8}, upper = {16, 32, 64, 128};
    *to = static_cast<uint8_t>(
        vaddvq_u32(vorrq_u32(bits(y.low, most.low, lower), bits(y.high, most.high, upper))));
  }
};

}  // namespace

void conv2d_96x32__neondot(const Conv2dTile& t) {
  run_winograd<NeonDot>(t);
}

}  // namespace mbu
