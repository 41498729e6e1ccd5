// conv2d of 3x3 layers by Winograd, winograd_4x4.h: 12 blocks of 4x4 pixels x 32 channels, 64 products an
// instruction.
#include "cpu/conv2d/winograd_4x4.h"

namespace mbu {
namespace {

struct Avx512Vnni {
  using Reg = __m512i;
  using Mask = __mmask64;
  static constexpr int64_t kLanes = 16, kBytes = 64;
  static constexpr int kWords = 2, kGroup = 12, kOffset = 128;

  static MBU_INLINE Reg load(const void* p) { return _mm512_loadu_si512(p); }
  static MBU_INLINE void store(void* p, Reg x) { _mm512_storeu_si512(p, x); }
  static MBU_INLINE Reg bytes(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
  static MBU_INLINE Reg ints(int32_t value) { return _mm512_set1_epi32(value); }
  static MBU_INLINE Reg add8(Reg a, Reg b) { return _mm512_add_epi8(a, b); }
  static MBU_INLINE Reg sub8(Reg a, Reg b) { return _mm512_sub_epi8(a, b); }
  static MBU_INLINE Reg add32(Reg a, Reg b) { return _mm512_add_epi32(a, b); }
  static MBU_INLINE Reg sub32(Reg a, Reg b) { return _mm512_sub_epi32(a, b); }
  static MBU_INLINE Reg times32(Reg a, Reg b) { return _mm512_mullo_epi32(a, b); }
  template <int kBits>
  static MBU_INLINE Reg left(Reg x) {
    return _mm512_slli_epi32(x, kBits);
  }
  template <int kBits>
  static MBU_INLINE Reg right(Reg x) {
    return _mm512_srai_epi32(x, kBits);
  }
  // Four bytes in every lane.
  static MBU_INLINE Reg repeat(const uint8_t* from) {
    int32_t four;
    __builtin_memcpy(&four, from, sizeof(four));
    return ints(four);
  }
  static MBU_INLINE Reg dot(Reg sum, Reg x, Reg weight) { return _mm512_dpbusd_epi32(sum, x, weight); }

  template <int kCount>
  static MBU_INLINE Mask bits(const Word* from) {
    uint64_t bits = 0;
    __builtin_memcpy(&bits, from, kCount * sizeof(Word));
    return _cvtu64_mask64(bits);
  }
  static MBU_INLINE Reg times(Mask mask, int value) { return _mm512_maskz_mov_epi8(mask, bytes(value)); }
  static MBU_INLINE Reg plus(Reg x, Mask mask, int value) {
    return _mm512_mask_add_epi8(x, mask, x, bytes(value));
  }
  template <int kCount>
  static MBU_INLINE void store_words(uint8_t* to, Reg x) {
    if constexpr (kCount == 2)
      store(to, x);
    else
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(x));
  }

  // Byte `byte` of every lane, four times.
  static MBU_INLINE Reg spread(Reg x, int64_t byte) {
    const Reg first = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
    return _mm512_shuffle_epi8(x, add8(first, bytes(static_cast<int>(byte))));
  }
  static MBU_INLINE Mask test(Reg x, Reg bit) { return _mm512_test_epi8_mask(x, bit); }
  // value * -w
  static MBU_INLINE Reg weights(Mask mask, Mask sign, int value) {
    return _mm512_mask_mov_epi8(times(mask, value), sign, bytes(-value));
  }

  static MBU_INLINE void store_bits(uint8_t* to, Reg y, Reg most) {
    const __mmask16 bits = _mm512_cmple_epi32_mask(y, most);
    __builtin_memcpy(to, &bits, sizeof(bits));
  }
};

}  // namespace

void conv2d_192x32__avx512vnni(const Conv2dTile& t) {
  run_winograd<Avx512Vnni>(t);
  if (t.stream && t.stream->past_caches) _mm_sfence();
}

}  // namespace mbu
