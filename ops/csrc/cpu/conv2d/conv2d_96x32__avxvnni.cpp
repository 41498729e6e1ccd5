// conv2d of 3x3 layers by Winograd, winograd_4x4.h: 6 blocks of 4x4 pixels x 16 channels, 32 products an
// instruction.
#include <immintrin.h>

#include "cpu/conv2d/winograd_4x4.h"

namespace mbu {
namespace {

struct AvxVnni {
  using Reg = __m256i;
  using Mask = __m256i;  // 0 or -1
  static constexpr int64_t kLanes = 8, kBytes = 32;
  static constexpr int kWords = 1, kGroup = 6, kOffset = 128;

  static MBU_INLINE Reg load(const void* p) { return _mm256_loadu_si256(static_cast<const Reg*>(p)); }
  static MBU_INLINE void store(void* p, Reg x) { _mm256_storeu_si256(static_cast<Reg*>(p), x); }
  static MBU_INLINE Reg bytes(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
  static MBU_INLINE Reg ints(int32_t value) { return _mm256_set1_epi32(value); }
  static MBU_INLINE Reg add8(Reg a, Reg b) { return _mm256_add_epi8(a, b); }
  static MBU_INLINE Reg sub8(Reg a, Reg b) { return _mm256_sub_epi8(a, b); }
  static MBU_INLINE Reg add32(Reg a, Reg b) { return _mm256_add_epi32(a, b); }
  static MBU_INLINE Reg sub32(Reg a, Reg b) { return _mm256_sub_epi32(a, b); }
  static MBU_INLINE Reg times32(Reg a, Reg b) { return _mm256_mullo_epi32(a, b); }
  template <int kBits>
  static MBU_INLINE Reg left(Reg x) {
    return _mm256_slli_epi32(x, kBits);
  }
  template <int kBits>
  static MBU_INLINE Reg right(Reg x) {
    return _mm256_srai_epi32(x, kBits);
  }
  // Four bytes in every lane.
  static MBU_INLINE Reg repeat(const uint8_t* from) {
    int32_t four;
    __builtin_memcpy(&four, from, sizeof(four));
    return ints(four);
  }
  static MBU_INLINE Reg dot(Reg sum, Reg x, Reg weight) { return _mm256_dpbusd_avx_epi32(sum, x, weight); }

  template <int kCount>
  static MBU_INLINE Mask bits(const Word* from) {
    const Reg byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    return test(_mm256_shuffle_epi8(ints(static_cast<int32_t>(*from)), byte),
                _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201)));
  }
  static MBU_INLINE Reg times(Mask mask, int value) { return _mm256_and_si256(mask, bytes(value)); }
  static MBU_INLINE Reg plus(Reg x, Mask mask, int value) { return add8(x, times(mask, value)); }
  template <int kCount>
  static MBU_INLINE void store_words(uint8_t* to, Reg x) {
    store(to, x);
  }

  // Byte `byte` of every lane, four times.
  static MBU_INLINE Reg spread(Reg x, int64_t byte) {
    const Reg first =
        _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c);
    return _mm256_shuffle_epi8(x, add8(first, bytes(static_cast<int>(byte))));
  }
  static MBU_INLINE Mask test(Reg x, Reg bit) { return _mm256_cmpeq_epi8(_mm256_and_si256(x, bit), bit); }
  // value * -w
  static MBU_INLINE Reg weights(Mask mask, Mask sign, int value) {
    return sub8(times(mask, value), times(sign, 2 * value));
  }

  static MBU_INLINE void store_bits(uint8_t* to, Reg y, Reg most) {
    const Reg above = _mm256_cmpgt_epi32(y, most);
    *to = static_cast<uint8_t>(~_mm256_movemask_ps(_mm256_castsi256_ps(above)));
  }
};

}  // namespace

void conv2d_96x32__avxvnni(const Conv2dTile& t) {
  run_winograd<AvxVnni>(t);
}

}  // namespace mbu
