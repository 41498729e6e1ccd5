// conv2d by codebook with AVX2: blocks of 64 pixels. Two operations per 128 products; three ports give 192
// multiply-adds per cycle, or 128 where only one of them shuffles.
#include "cpu/conv2d/codebook.h"

namespace mbu {

void conv2d_8x8__avx2(const Conv2dTile& t);

namespace {

struct Avx2 {
  using Reg = __m256i;
  static constexpr int kLanes = 32;  // bytes
  // Popcount takes no longer for this many pixels than the codebook for a register of them.
  static constexpr int64_t kFewPixels = 26;

  static void rest(const Conv2dTile& t) { conv2d_8x8__avx2(t); }

  static MBU_INLINE Reg load(const void* p) { return _mm256_loadu_si256(static_cast<const Reg*>(p)); }
  static MBU_INLINE void store(void* p, Reg x) { _mm256_storeu_si256(static_cast<Reg*>(p), x); }
  static MBU_INLINE Reg zero() { return _mm256_setzero_si256(); }
  static MBU_INLINE Reg splat16(int16_t x) { return _mm256_set1_epi16(x); }
  static MBU_INLINE Reg every_lane(__m128i x) { return _mm256_broadcastsi128_si256(x); }

  // Lane h: words k .. k + 3 of pixel[16h].
  static MBU_INLINE Reg load_lanes(const Word* const* pixel, int64_t k) {
    auto lane = [&](int h) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixel[16 * h] + k)); };
    return _mm256_inserti128_si256(_mm256_castsi128_si256(lane(0)), lane(1), 1);
  }
  // Lane h: word k of pixels [16h] .. [16h + 3].
  static MBU_INLINE Reg load_words(const Word* const* pixel, int64_t k) {
    auto word = [&](int p) { return static_cast<int>(pixel[p][k]); };
    return _mm256_setr_epi32(word(0), word(1), word(2), word(3), word(16), word(17), word(18), word(19));
  }

  static MBU_INLINE Reg bit_and(Reg a, Reg b) { return _mm256_and_si256(a, b); }
  template <int kBits>
  static MBU_INLINE Reg shift_right16(Reg x) {
    return _mm256_srli_epi16(x, kBits);
  }
  static MBU_INLINE Reg add8(Reg a, Reg b) { return _mm256_add_epi8(a, b); }
  static MBU_INLINE Reg sub8(Reg a, Reg b) { return _mm256_sub_epi8(a, b); }
  static MBU_INLINE Reg add16(Reg a, Reg b) { return _mm256_add_epi16(a, b); }
  static MBU_INLINE Reg above16(Reg a, Reg b) { return _mm256_cmpgt_epi16(a, b); }
  static MBU_INLINE Reg pack16(Reg a, Reg b) { return _mm256_packs_epi16(a, b); }
  static MBU_INLINE Reg shuffle(Reg x, Reg index) { return _mm256_shuffle_epi8(x, index); }
  static MBU_INLINE Reg unpack_low8(Reg a, Reg b) { return _mm256_unpacklo_epi8(a, b); }
  static MBU_INLINE Reg unpack_high8(Reg a, Reg b) { return _mm256_unpackhi_epi8(a, b); }
  static MBU_INLINE Reg unpack_low16(Reg a, Reg b) { return _mm256_unpacklo_epi16(a, b); }
  static MBU_INLINE Reg unpack_high16(Reg a, Reg b) { return _mm256_unpackhi_epi16(a, b); }
  static MBU_INLINE Reg unpack_low32(Reg a, Reg b) { return _mm256_unpacklo_epi32(a, b); }
  static MBU_INLINE Reg unpack_high32(Reg a, Reg b) { return _mm256_unpackhi_epi32(a, b); }
  static MBU_INLINE Reg unpack_low64(Reg a, Reg b) { return _mm256_unpacklo_epi64(a, b); }
  static MBU_INLINE Reg unpack_high64(Reg a, Reg b) { return _mm256_unpackhi_epi64(a, b); }

  // counts[r] += table[a[r]]. In assembly: the compiler copied every counter once per step, which cost a
  // third of the speed with AVX2.
  template <int kRegs>
  static MBU_INLINE void add_counts(const uint8_t* table, const Reg* a, Reg* counts) {
    Reg x, y;
    const auto& entries = *reinterpret_cast<const __m128i*>(table);
    if constexpr (kRegs == 2) {
      __asm__(
          "vbroadcasti128 %[table], %[x]\n\t"
          "vpshufb %[a0], %[x], %[y]\n\t"
          "vpshufb %[a1], %[x], %[x]\n\t"
          "vpaddb %[y], %[c0], %[c0]\n\t"
          "vpaddb %[x], %[c1], %[c1]"
          : [x] "=&x"(x), [y] "=&x"(y), [c0] "+x"(counts[0]), [c1] "+x"(counts[1])
          : [table] "m"(entries), [a0] "x"(a[0]), [a1] "x"(a[1]));
    } else {
      __asm__(
          "vbroadcasti128 %[table], %[x]\n\t"
          "vpshufb %[a0], %[x], %[x]\n\t"
          "vpaddb %[x], %[c0], %[c0]"
          : [x] "=&x"(x), [c0] "+x"(counts[0])
          : [table] "m"(entries), [a0] "x"(a[0]));
    }
  }
};

}  // namespace

void conv2d_64x32__avx2(const Conv2dTile& t) {
  run_codebook<Avx2>(t);
}

}  // namespace mbu
