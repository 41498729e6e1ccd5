// pack and unpack for the two layouts that models use: channels contiguous (channels_last) and pixels
// contiguous (the default). Other strides, and what is left over, go to the portable code.
#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "cpu/kernels.h"

namespace mbu {

void pack__scalar(const PackRow& r);

namespace {

#define MBU_INLINE inline __attribute__((always_inline))

struct F32 {
  using Element = float;
  static MBU_INLINE float32x4_t load(const float* p) { return vld1q_f32(p); }
};

struct BF16 {
  using Element = uint16_t;
  static MBU_INLINE float32x4_t load(const uint16_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
  }
};

struct F16 {
  using Element = uint16_t;
  static MBU_INLINE float32x4_t load(const uint16_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
  }
};

struct S8 {
  using Element = Fixed8;
  static MBU_INLINE float32x4_t load(const Fixed8* p) {
    int32_t four;
    std::memcpy(&four, p, sizeof four);
    const int16x8_t wide = vmovl_s8(vcreate_s8(static_cast<uint32_t>(four)));
    return vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), kFixed8Step);
  }
};

// 16 channels: byte c is 1 << (c % 8) where x[c] reaches its threshold. NaN compares false.
template <class T>
MBU_INLINE uint8x16_t reaches(const typename T::Element* x, const float* threshold) {
  uint32x4_t m[4];
  for (int v = 0; v < 4; ++v) m[v] = vcgeq_f32(T::load(x + 4 * v), vld1q_f32(threshold + 4 * v));
  const uint16x8_t low = vuzp1q_u16(vreinterpretq_u16_u32(m[0]), vreinterpretq_u16_u32(m[1]));
  const uint16x8_t high = vuzp1q_u16(vreinterpretq_u16_u32(m[2]), vreinterpretq_u16_u32(m[3]));
  const uint8x16_t all = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
  return vandq_u8(all, vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201)));
}

template <class T>
MBU_INLINE Word pack_word(const typename T::Element* x, const float* threshold) {
  uint8x16_t sum = vpaddq_u8(reaches<T>(x, threshold), reaches<T>(x + 16, threshold + 16));
  sum = vpaddq_u8(sum, sum);
  sum = vpaddq_u8(sum, sum);
  return vgetq_lane_u32(vreinterpretq_u32_u8(sum), 0);
}

// stride_c == 1
template <class T>
void pack_channels(const PackRow& r) {
  using Element = typename T::Element;
  const auto* pixel = static_cast<const Element*>(r.input);
  const int64_t full = r.channels / kWordBits, tail = r.channels % kWordBits;
  Element last[kWordBits] = {};
  Word* output = r.output;
  for (int64_t i = 0; i < r.pixels; ++i, pixel += r.stride_w) {
    for (int64_t k = 0; k < full; ++k)
      *output++ = pack_word<T>(pixel + k * kWordBits, r.threshold + k * kWordBits) ^ r.flip[k];
    if (tail) {
      std::memcpy(last, pixel + full * kWordBits, static_cast<size_t>(tail) * sizeof(Element));
      const Word word = pack_word<T>(last, r.threshold + full * kWordBits);
      *output++ = (word & valid_bits(full, r.channels)) ^ r.flip[full];
    }
  }
}

// stride_w == 1: lanes are pixels. From the last channel of a word to the first, `sli` shifts the bits so far
// up by one and keeps the lowest bit of the comparison. 16 pixels read a whole cache line of each channel.
template <class T>
void pack_pixels(const PackRow& r) {
  constexpr int kLanes = 16;
  const auto* input = static_cast<const typename T::Element*>(r.input);
  const int64_t words = words_of(r.channels), even = r.pixels / kLanes * kLanes;
  for (int64_t first = 0; first < even; first += kLanes) {
    for (int64_t k = 0; k < words; ++k) {
      const int64_t channels = std::min(r.channels - k * kWordBits, kWordBits);
      const auto* x = input + (k * kWordBits + channels - 1) * r.stride_c + first;
      uint32x4_t word[4] = {};
      for (int64_t c = channels - 1; c >= 0; --c, x -= r.stride_c) {
        const float32x4_t threshold = vdupq_n_f32(r.threshold[k * kWordBits + c]);
        for (int v = 0; v < 4; ++v)
          word[v] = vsliq_n_u32(vcgeq_f32(T::load(x + 4 * v), threshold), word[v], 1);
      }
      Word lanes[kLanes];
      for (int v = 0; v < 4; ++v) vst1q_u32(lanes + 4 * v, veorq_u32(word[v], vdupq_n_u32(r.flip[k])));
      Word* output = r.output + first * words + k;
      for (int p = 0; p < kLanes; ++p) output[p * words] = lanes[p];
    }
  }
  PackRow rest = r;
  rest.input = input + even;
  rest.pixels -= even;
  rest.output += even * words;
  pack__scalar(rest);
}

template <class T>
void pack_type(const PackRow& r) {
  if (r.stride_c == 1 && r.channels > 1) return pack_channels<T>(r);
  if (r.stride_w == 1) return pack_pixels<T>(r);
  pack__scalar(r);
}

}  // namespace

void pack__neon(const PackRow& r) {
  if (r.type == FloatType::f32) return pack_type<F32>(r);
  if (r.type == FloatType::bf16) return pack_type<BF16>(r);
  if (r.type == FloatType::fixed8) return pack_type<S8>(r);
  pack_type<F16>(r);
}

void unpack__neon(const UnpackRow& r) {
  // -1.0f and 1.0f differ in the sign bit alone: set where the bit of the channel is clear.
  const uint32x4_t one = vreinterpretq_u32_f32(vdupq_n_f32(1.0f));
  constexpr int32_t kToSign[4] = {31, 30, 29, 28};
  const int32x4_t to_sign = vld1q_s32(kToSign);
  const Word* pixel = r.input;
  float* output = r.output;
  for (int64_t i = 0; i < r.pixels; ++i, pixel += r.stride_w) {
    for (int64_t c = 0; c < r.channels; c += 4) {
      const uint32x4_t clear = vdupq_n_u32(~pixel[c / kWordBits] >> (c % kWordBits));
      const uint32x4_t sign = vandq_u32(vshlq_u32(clear, to_sign), vdupq_n_u32(0x80000000u));
      const float32x4_t x = vreinterpretq_f32_u32(vorrq_u32(one, sign));
      const int64_t left = r.channels - c;
      if (left >= 4) {
        vst1q_f32(output, x);
        output += 4;
      } else {
        std::memcpy(output, &x, static_cast<size_t>(left) * sizeof(float));
        output += left;
      }
    }
  }
}

}  // namespace mbu
