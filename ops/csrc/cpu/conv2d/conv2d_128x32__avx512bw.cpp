// conv2d by codebook with AVX-512: blocks of 128 pixels. Two operations per 256 products, one of them a
// shuffle and so bound to one port: 256 multiply-adds per cycle. Long sums go to the bit-plane adders, which
// reach 282 but pay a fixed price per sum.
#include "cpu/conv2d/codebook.h"

namespace mbu {

void conv2d_4x16__avx512bw(const Conv2dTile& t);

namespace {

struct Avx512 {
  using Reg = __m512i;
  static constexpr int kLanes = 64;  // bytes
  // Popcount takes no longer for this many pixels than the codebook for a register of them.
  static constexpr int64_t kFewPixels = 48;

  static void rest(const Conv2dTile& t) { conv2d_4x16__avx512bw(t); }

  static MBU_INLINE Reg load(const void* p) { return _mm512_loadu_si512(p); }
  static MBU_INLINE void store(void* p, Reg x) { _mm512_storeu_si512(p, x); }
  static MBU_INLINE Reg zero() { return _mm512_setzero_si512(); }
  static MBU_INLINE Reg splat16(int16_t x) { return _mm512_set1_epi16(x); }
  static MBU_INLINE Reg every_lane(__m128i x) { return _mm512_broadcast_i32x4(x); }

  // Lane h: words k .. k + 3 of pixel[16h].
  static MBU_INLINE Reg load_lanes(const Word* const* pixel, int64_t k) {
    auto lane = [&](int h) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixel[16 * h] + k)); };
    return join(lane(0), lane(1), lane(2), lane(3));
  }
  // Lane h: word k of pixels [16h] .. [16h + 3].
  static MBU_INLINE Reg load_words(const Word* const* pixel, int64_t k) {
    auto word = [&](int p) { return static_cast<int>(pixel[p][k]); };
    auto lane = [&](int h) {
      return _mm_setr_epi32(word(16 * h), word(16 * h + 1), word(16 * h + 2), word(16 * h + 3));
    };
    return join(lane(0), lane(1), lane(2), lane(3));
  }
  static MBU_INLINE Reg join(__m128i a, __m128i b, __m128i c, __m128i d) {
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(c), d, 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }

  static MBU_INLINE Reg bit_and(Reg a, Reg b) { return _mm512_and_si512(a, b); }
  template <int kBits>
  static MBU_INLINE Reg shift_right16(Reg x) {
    return _mm512_srli_epi16(x, kBits);
  }
  static MBU_INLINE Reg add8(Reg a, Reg b) { return _mm512_add_epi8(a, b); }
  static MBU_INLINE Reg sub8(Reg a, Reg b) { return _mm512_sub_epi8(a, b); }
  static MBU_INLINE Reg add16(Reg a, Reg b) { return _mm512_add_epi16(a, b); }
  static MBU_INLINE Reg above16(Reg a, Reg b) { return _mm512_movm_epi16(_mm512_cmpgt_epi16_mask(a, b)); }
  static MBU_INLINE Reg pack16(Reg a, Reg b) { return _mm512_packs_epi16(a, b); }
  static MBU_INLINE Reg shuffle(Reg x, Reg index) { return _mm512_shuffle_epi8(x, index); }
  static MBU_INLINE Reg unpack_low8(Reg a, Reg b) { return _mm512_unpacklo_epi8(a, b); }
  static MBU_INLINE Reg unpack_high8(Reg a, Reg b) { return _mm512_unpackhi_epi8(a, b); }
  static MBU_INLINE Reg unpack_low16(Reg a, Reg b) { return _mm512_unpacklo_epi16(a, b); }
  static MBU_INLINE Reg unpack_high16(Reg a, Reg b) { return _mm512_unpackhi_epi16(a, b); }
  static MBU_INLINE Reg unpack_low32(Reg a, Reg b) { return _mm512_unpacklo_epi32(a, b); }
  static MBU_INLINE Reg unpack_high32(Reg a, Reg b) { return _mm512_unpackhi_epi32(a, b); }
  static MBU_INLINE Reg unpack_low64(Reg a, Reg b) { return _mm512_unpacklo_epi64(a, b); }
  static MBU_INLINE Reg unpack_high64(Reg a, Reg b) { return _mm512_unpackhi_epi64(a, b); }

  // counts[r] += table[a[r]]. In assembly: the compiler copied every counter once per step, which cost a
  // third of the speed with AVX2.
  template <int kRegs>
  static MBU_INLINE void add_counts(const uint8_t* table, const Reg* a, Reg* counts) {
    Reg x, y;
    const auto& entries = *reinterpret_cast<const __m128i*>(table);
    if constexpr (kRegs == 2) {
      __asm__(
          "vbroadcasti32x4 %[table], %[x]\n\t"
          "vpshufb %[a0], %[x], %[y]\n\t"
          "vpshufb %[a1], %[x], %[x]\n\t"
          "vpaddb %[y], %[c0], %[c0]\n\t"
          "vpaddb %[x], %[c1], %[c1]"
          : [x] "=&v"(x), [y] "=&v"(y), [c0] "+v"(counts[0]), [c1] "+v"(counts[1])
          : [table] "m"(entries), [a0] "v"(a[0]), [a1] "v"(a[1]));
    } else {
      __asm__(
          "vbroadcasti32x4 %[table], %[x]\n\t"
          "vpshufb %[a0], %[x], %[x]\n\t"
          "vpaddb %[x], %[c0], %[c0]"
          : [x] "=&v"(x), [c0] "+v"(counts[0])
          : [table] "m"(entries), [a0] "v"(a[0]));
    }
  }
};

}  // namespace

void conv2d_128x32__avx512bw(const Conv2dTile& t) {
  // Words from which on adding bit planes was faster: measured, 27 behind and 36 ahead for bits, 18 equal for
  // sums, whose transposition from pixels to channels the codebook pays in addition.
  const int64_t many = t.sums ? 18 : 32;
  if (count_steps(t) >= many)
    conv2d_4x16__avx512bw(t);
  else
    run_codebook<Avx512>(t);
}

}  // namespace mbu
