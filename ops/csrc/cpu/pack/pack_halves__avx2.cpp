// pack of 16-bit floats, compared as the integers that they are stored as: 16 to a register instead of 8.
//
// Floats are in the order of their positions: the magnitude's bits as an integer, with the float's sign. A
// constant is added so that infinity becomes the largest integer, and NaNs, which lie beyond, the smallest:
// position > limit is then x >= threshold, and false for NaN.
#include <immintrin.h>

#include "cpu/kernels.h"
#include "cpu/unroll.h"

namespace mbu {

void pack__scalar(const PackRow& r);

namespace {

constexpr int kLanes = 16;
constexpr int64_t kMostChannels = 16384;  // whose limits are kept on the stack
// Rows of channels, read 256 bytes at a time, that prefetching hardware keeps up with.
constexpr int64_t kFollowed = 64;

// round_up: the smallest of the type's numbers that reach each of eight float32, which are not NaN.
struct BF16 {
  static constexpr int kInfinity = 0x7f80;
  static MBU_INLINE __m128i round_up(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), negative = _mm256_srai_epi32(bits, 31);
    const __m256i up = _mm256_add_epi32(bits, _mm256_andnot_si256(negative, _mm256_set1_epi32(0xffff)));
    const __m256i high = _mm256_srli_epi32(up, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  }
};

struct F16 {
  static constexpr int kInfinity = 0x7c00;
  static MBU_INLINE __m128i round_up(__m256 x) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
  }
};

template <class T>
MBU_INLINE __m256i position(__m256i x) {
  const __m256i magnitude = _mm256_and_si256(x, _mm256_set1_epi16(0x7fff));
  return _mm256_add_epi16(_mm256_sign_epi16(magnitude, x), _mm256_set1_epi16(0x7fff - T::kInfinity));
}

template <class T>
MBU_INLINE __m128i position(__m128i x) {
  const __m128i magnitude = _mm_and_si128(x, _mm_set1_epi16(0x7fff));
  return _mm_add_epi16(_mm_sign_epi16(magnitude, x), _mm_set1_epi16(0x7fff - T::kInfinity));
}

// The position below each threshold's, whose number is padded to whole words; the largest integer, which no
// position exceeds, for NaN.
template <class T>
void find_limits(const float* threshold, int64_t count, int16_t* limit) {
  for (int64_t c = 0; c < count; c += 8) {
    const __m256 x = _mm256_loadu_ps(threshold + c);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m128i nans = _mm_packs_epi32(_mm256_castsi256_si128(nan), _mm256_extracti128_si256(nan, 1));
    const __m128i below = _mm_sub_epi16(position<T>(T::round_up(x)), _mm_set1_epi16(1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(limit + c),
                     _mm_blendv_epi8(below, _mm_set1_epi16(0x7fff), nans));
  }
}

MBU_INLINE __m256i load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
MBU_INLINE __m128i load_eight(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}

template <class T>
MBU_INLINE __m256i reaches(const uint16_t* x, __m256i limit) {
  return _mm256_cmpgt_epi16(position<T>(load(x)), limit);
}

// Bits of 16 numbers from x and 16 from y.
template <class T>
MBU_INLINE Word bits_of(const uint16_t* x, const int16_t* x_limit, const uint16_t* y,
                        const int16_t* y_limit) {
  const __m256i bytes = _mm256_packs_epi16(reaches<T>(x, load(x_limit)), reaches<T>(y, load(y_limit)));
  return static_cast<Word>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(bytes, 0xd8)));
}

// stride_c == 1. last_word(x) packs the channels behind the last whole word of the pixel at x.
template <class T, class LastWord>
MBU_INLINE void pack_each(const PackRow& r, const int16_t* limit, LastWord last_word) {
  const auto* x = static_cast<const uint16_t*>(r.input);
  const int64_t full = r.channels / kWordBits;
  const bool more = r.channels % kWordBits;
  const Word* flip = r.flip;
  Word* output = r.output;
  for (int64_t left = r.pixels; left > 0; --left, x += r.stride_w) {
    for (int64_t k = 0, c = 0; k < full; ++k, c += kWordBits)
      *output++ = bits_of<T>(x + c, limit + c, x + c + 16, limit + c + 16) ^ flip[k];
    if (more) *output++ = last_word(x) ^ flip[full];
  }
}

// Where the last channels fill no register, some are read twice: nothing behind a pixel is touched.
template <class T>
void pack_channels(const PackRow& r, const int16_t* limit) {
  const int64_t count = r.channels % kWordBits;
  if (r.channels >= kWordBits) {
    const int64_t first = r.channels - kWordBits;
    const int16_t* least = limit + first;
    return pack_each<T>(r, limit, [=](const uint16_t* x) MBU_LAMBDA {
      return bits_of<T>(x + first, least, x + first + 16, least + 16) >> (kWordBits - count);
    });
  }
  if (r.channels >= 16)
    return pack_each<T>(r, limit, [=](const uint16_t* x) MBU_LAMBDA {
      const Word word = bits_of<T>(x, limit, x + count - 16, limit + count - 16);
      return (word & 0xffff) | (word >> 16 << (count - 16));
    });
  const __m128i low = load_eight(limit), high = load_eight(limit + count - 8);
  pack_each<T>(r, limit, [=](const uint16_t* x) MBU_LAMBDA {
    const __m128i a = _mm_cmpgt_epi16(position<T>(load_eight(x)), low);
    const __m128i b = _mm_cmpgt_epi16(position<T>(load_eight(x + count - 8)), high);
    const auto word = static_cast<Word>(_mm_movemask_epi8(_mm_packs_epi16(a, b)));
    return (word & 0xff) | (word >> 8 << (count - 8));
  });
}

// Bits of up to 16 channels of kVectors * 16 pixels: bit c of every lane that reaches channel c's limit.
template <class T, int kVectors>
MBU_INLINE void pack_lanes(const PackRow& r, const uint16_t* x, const int16_t* limit, int64_t channels,
                           __m256i* bits) {
  for (int v = 0; v < kVectors; ++v) bits[v] = _mm256_setzero_si256();
  const bool many = r.channels > kFollowed;
  for (int64_t c = 0; c < channels; ++c, x += r.stride_c) {
    const __m256i least = _mm256_set1_epi16(limit[c]), bit = _mm256_set1_epi16(static_cast<int16_t>(1 << c));
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      // More rows of channels than a processor follows by itself: the next block's are asked for here.
      if (many && v % 2 == 0) _mm_prefetch(x + (kVectors + v) * kLanes, _MM_HINT_T0);
      bits[v] = _mm256_or_si256(bits[v], _mm256_and_si256(reaches<T>(x + v * kLanes, least), bit));
    }
  }
}

// stride_w == 1, kVectors * 16 pixels from `first` on.
template <class T, int kVectors>
void pack_pixels(const PackRow& r, const int16_t* limit, int64_t first) {
  const auto* input = static_cast<const uint16_t*>(r.input) + first;
  const int64_t words = words_of(r.channels);
  for (int64_t k = 0; k < words; ++k) {
    const int64_t c = k * kWordBits, left = r.channels - c;
    __m256i low[kVectors], high[kVectors];
    pack_lanes<T, kVectors>(r, input + c * r.stride_c, limit + c, left < 16 ? left : 16, low);
    const int64_t more = left < kWordBits ? left - 16 : 16;
    pack_lanes<T, kVectors>(r, input + (c + 16) * r.stride_c, limit + c + 16, more, high);
    const __m256i flip = _mm256_set1_epi32(static_cast<int>(r.flip[k]));
    alignas(32) Word lanes[kVectors * kLanes];
    Word* output = words == 1 ? r.output + first : lanes;
    for (int v = 0; v < kVectors; ++v) {
      const __m256i a = _mm256_unpacklo_epi16(low[v], high[v]), b = _mm256_unpackhi_epi16(low[v], high[v]);
      auto* to = reinterpret_cast<__m256i*>(output + v * kLanes);
      _mm256_storeu_si256(to, _mm256_xor_si256(_mm256_permute2x128_si256(a, b, 0x20), flip));
      _mm256_storeu_si256(to + 1, _mm256_xor_si256(_mm256_permute2x128_si256(a, b, 0x31), flip));
    }
    if (words == 1) return;
    for (int p = 0; p < kVectors * kLanes; ++p) r.output[(first + p) * words + k] = lanes[p];
  }
}

template <class T>
void pack_pixels(const PackRow& r, const int16_t* limit) {
  int64_t i = 0;
  for (; i + 8 * kLanes <= r.pixels; i += 8 * kLanes) pack_pixels<T, 8>(r, limit, i);
  for (; i + kLanes <= r.pixels; i += kLanes) pack_pixels<T, 1>(r, limit, i);
  if (i < r.pixels) pack_pixels<T, 1>(r, limit, r.pixels - kLanes);  // some of them again
}

template <class T>
void pack_type(const PackRow& r) {
  alignas(32) int16_t limit[kMostChannels];
  find_limits<T>(r.threshold, r.channels, limit);
  r.stride_c == 1 && r.channels > 1 ? pack_channels<T>(r, limit) : pack_pixels<T>(r, limit);
}

}  // namespace

// Returns false where the layout, or the number of channels, asks for another way.
bool pack_halves__avx2(const PackRow& r) {
  const bool channels_last = r.stride_c == 1 && r.channels > 1;
  if (r.channels > kMostChannels) return false;
  if (channels_last ? r.channels < 8 : r.stride_w != 1 || r.pixels < kLanes) return false;
  r.type == FloatType::bf16 ? pack_type<BF16>(r) : pack_type<F16>(r);
  return true;
}

}  // namespace mbu
