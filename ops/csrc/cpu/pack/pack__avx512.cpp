// pack and unpack at memory speed for the two layouts that models use: channels contiguous (channels_last)
// and pixels contiguous (the default). Other strides go to the portable code.
#include <immintrin.h>

#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/pack/few_channels.h"

namespace mbu {

void pack__scalar(const PackRow& r);

namespace {

#define MBU_INLINE inline __attribute__((always_inline))

// Rows of channels, read 128 bytes at a time, that prefetching hardware keeps up with: measured, 64 and fewer
// gain nothing from being asked for ahead, nor do 256 bytes at a time of any number.
constexpr int64_t kFollowed = 64;

struct F32 {
  using Element = float;
  static MBU_INLINE __m512 load(const float* p) { return _mm512_loadu_ps(p); }
  static MBU_INLINE __m512 load(const float* p, __mmask16 m) { return _mm512_maskz_loadu_ps(m, p); }
};

struct BF16 {
  using Element = uint16_t;
  static MBU_INLINE __m512 widen(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
  static MBU_INLINE __m512 load(const uint16_t* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static MBU_INLINE __m512 load(const uint16_t* p, __mmask16 m) {
    return widen(_mm256_maskz_loadu_epi16(m, p));
  }
};

struct F16 {
  using Element = uint16_t;
  static MBU_INLINE __m512 load(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static MBU_INLINE __m512 load(const uint16_t* p, __mmask16 m) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p));
  }
};

struct S8 {
  using Element = Fixed8;
  static MBU_INLINE __m512 widen(__m128i bytes) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), _mm512_set1_ps(kFixed8Step));
  }
  static MBU_INLINE __m512 load(const Fixed8* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static MBU_INLINE __m512 load(const Fixed8* p, __mmask16 m) { return widen(_mm_maskz_loadu_epi8(m, p)); }
};

MBU_INLINE __mmask16 reaches(__m512 x, __m512 threshold) {
  return _mm512_cmp_ps_mask(x, threshold, _CMP_GE_OQ);  // ordered: NaN compares false
}

// stride_c == 1: a compare yields 16 bits of the output word directly.
template <class T>
void pack_channels(const PackRow& r) {
  const auto* pixel = static_cast<const typename T::Element*>(r.input);
  const int64_t full = r.channels / kWordBits, tail = r.channels % kWordBits;
  const __mmask32 valid = (__mmask32{1} << tail) - 1;
  const auto valid0 = static_cast<__mmask16>(valid), valid1 = static_cast<__mmask16>(valid >> 16);
  Word* output = r.output;
  for (int64_t i = 0; i < r.pixels; ++i, pixel += r.stride_w) {
    const float* threshold = r.threshold;
    for (int64_t k = 0; k < full; ++k, threshold += kWordBits) {
      const auto* x = pixel + k * kWordBits;
      const __mmask16 a = reaches(T::load(x), _mm512_loadu_ps(threshold));
      const __mmask16 b = reaches(T::load(x + 16), _mm512_loadu_ps(threshold + 16));
      *output++ = _cvtmask32_u32(_mm512_kunpackw(b, a)) ^ r.flip[k];
    }
    if (tail) {
      const auto* x = pixel + full * kWordBits;
      const __mmask16 a = reaches(T::load(x, valid0), _mm512_loadu_ps(threshold)) & valid0;
      const __mmask16 b =
          valid1 ? reaches(T::load(x + 16, valid1), _mm512_loadu_ps(threshold + 16)) & valid1 : __mmask16{0};
      *output++ = _cvtmask32_u32(_mm512_kunpackw(b, a)) ^ r.flip[full];
    }
  }
}

constexpr int kLanes = 16;

// 16 pixels of `channels` bits, one after another from `bits` on, to 16 words; reads 64 bytes.
struct SplitBits {
  __m512i low, shift, valid, flip;

  SplitBits(int64_t channels, Word flips) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i first = _mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(channels)));
    low = _mm512_srli_epi32(first, 5);
    shift = _mm512_and_si512(first, _mm512_set1_epi32(31));
    valid = _mm512_set1_epi32(static_cast<int>(valid_bits(0, channels)));
    flip = _mm512_set1_epi32(static_cast<int>(flips));
  }
  MBU_INLINE __m512i operator()(const void* bits) const {
    const __m512i words = _mm512_loadu_si512(bits), one = _mm512_set1_epi32(1);
    const __m512i a = _mm512_srlv_epi32(_mm512_permutexvar_epi32(low, words), shift);
    const __m512i next = _mm512_permutexvar_epi32(_mm512_add_epi32(low, one), words);
    const __m512i b = _mm512_sllv_epi32(next, _mm512_sub_epi32(_mm512_set1_epi32(32), shift));
    return _mm512_xor_si512(_mm512_and_si512(_mm512_or_si512(a, b), valid), flip);
  }
};

// stride_c == 1, stride_w == channels < 16. Bits are written register by register and read block by block, so
// many pixels at a time that what is read has left the store buffer, which cannot join two stores.
template <class T>
void pack_few_channels(const PackRow& r) {
  constexpr int64_t kChunkPixels = 1024;
  const FewChannels<kLanes> few(r.channels, r.threshold);
  const SplitBits split(r.channels, r.flip[0]);
  const auto* input = static_cast<const typename T::Element*>(r.input);
  PackRow rest = r;
  while (rest.pixels >= kLanes) {
    alignas(64) uint16_t bits[kChunkPixels + 32];
    const int64_t pixels = std::min(rest.pixels / kLanes * kLanes, kChunkPixels);
    __mmask16* mask = bits;
    for (int64_t p = 0; p < pixels; p += kLanes)
      for (int64_t v = 0; v < r.channels; ++v, input += kLanes)
        _store_mask16(mask++, reaches(T::load(input), _mm512_load_ps(few.threshold[v])));
    const uint16_t* block = bits;
    for (int64_t p = 0; p < pixels; p += kLanes, block += r.channels)
      _mm512_storeu_si512(rest.output + p, split(block));
    rest.pixels -= pixels;
    rest.output += pixels;
  }
  rest.input = input;
  pack_channels<T>(rest);
}

// stride_w == 1: lanes are pixels; channel c sets bit c of every lane that reaches its threshold. 64 pixels
// at a time read whole cache lines of each channel, one after another.
template <class T>
void pack_pixels(const PackRow& r) {
  constexpr int kVectors = 4;
  const auto* input = static_cast<const typename T::Element*>(r.input);
  const int64_t words = words_of(r.channels);
  const bool many = sizeof(typename T::Element) == 2 && r.channels > kFollowed;
  for (int64_t first = 0; first < r.pixels; first += kVectors * kLanes) {
    const int64_t pixels = std::min<int64_t>(r.pixels - first, kVectors * kLanes);
    __mmask16 valid[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const int64_t left = std::clamp<int64_t>(pixels - v * kLanes, 0, kLanes);
      valid[v] = static_cast<__mmask16>((1u << left) - 1);
    }
    for (int64_t k = 0; k < words; ++k) {
      const int64_t channels = std::min<int64_t>(r.channels - k * kWordBits, kWordBits);
      const __m512i flip = _mm512_set1_epi32(static_cast<int>(r.flip[k]));
      __m512i word[kVectors] = {flip, flip, flip, flip};
      const auto* x = input + k * kWordBits * r.stride_c + first;
      for (int64_t c = 0; c < channels; ++c, x += r.stride_c) {
        const __m512 threshold = _mm512_set1_ps(r.threshold[k * kWordBits + c]);
        const __m512i bit = _mm512_set1_epi32(static_cast<int>(Word{1} << c));
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          // More rows of channels than a processor follows by itself: the next block's are asked for here.
          if (many) _mm_prefetch(x + (kVectors + v) * kLanes, _MM_HINT_T0);
          const __mmask16 set = reaches(T::load(x + v * kLanes, valid[v]), threshold);
          word[v] = _mm512_mask_xor_epi32(word[v], set, word[v], bit);
        }
      }
      Word* output = r.output + first * words + k;
      if (words == 1) {
        for (int v = 0; v < kVectors; ++v) _mm512_mask_storeu_epi32(output + v * kLanes, valid[v], word[v]);
      } else {
        alignas(64) Word lanes[kVectors * kLanes];
        for (int v = 0; v < kVectors; ++v) _mm512_store_si512(lanes + v * kLanes, word[v]);
        for (int64_t p = 0; p < pixels; ++p) output[p * words] = lanes[p];
      }
    }
  }
}

template <class T>
void pack_type(const PackRow& r) {
  if (r.stride_c == 1 && r.channels > 1 && r.channels < kLanes && r.stride_w == r.channels)
    return pack_few_channels<T>(r);
  if (r.stride_c == 1 && r.channels > 1) return pack_channels<T>(r);
  if (r.stride_w == 1) return pack_pixels<T>(r);
  pack__scalar(r);
}

}  // namespace

void pack__avx512(const PackRow& r) {
  if (r.type == FloatType::f32) return pack_type<F32>(r);
  if (r.type == FloatType::bf16) return pack_type<BF16>(r);
  if (r.type == FloatType::fixed8) return pack_type<S8>(r);
  pack_type<F16>(r);
}

void unpack__avx512(const UnpackRow& r) {
  const __m512 plus = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-1.0f);
  const Word* pixel = r.input;
  float* output = r.output;
  int64_t i = 0;
  if (r.channels < kLanes && r.stride_w == 1) {
    const FewChannels<kLanes> few(r.channels, nullptr);
    for (; i + kLanes <= r.pixels; i += kLanes, pixel += kLanes) {
      const __m512i words = _mm512_loadu_si512(pixel);
      for (int64_t v = 0; v < r.channels; ++v, output += kLanes) {
        const __m512i own = _mm512_permutexvar_epi32(_mm512_load_si512(few.pixel[v]), words);
        const __mmask16 bits = _mm512_test_epi32_mask(own, _mm512_load_si512(few.bit[v]));
        _mm512_storeu_ps(output, _mm512_mask_mov_ps(minus, bits, plus));
      }
    }
  }
  for (; i < r.pixels; ++i, pixel += r.stride_w) {
    for (int64_t c = 0; c < r.channels; c += 16, output += 16) {
      const auto bits = static_cast<__mmask16>(pixel[c / kWordBits] >> (c % kWordBits));
      const int64_t left = std::min<int64_t>(r.channels - c, 16);
      _mm512_mask_storeu_ps(output, static_cast<__mmask16>((1u << left) - 1),
                            _mm512_mask_mov_ps(minus, bits, plus));
    }
    output -= (16 - r.channels % 16) % 16;
  }
}

}  // namespace mbu
