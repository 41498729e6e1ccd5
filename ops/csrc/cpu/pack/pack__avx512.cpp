// pack and unpack at memory speed for the two layouts that models use: channels contiguous (channels_last)
// and pixels contiguous (the default). Other strides go to the portable code.
#include <immintrin.h>

#include <algorithm>

#include "cpu/kernels.h"

namespace mbu {

void pack__scalar(const PackRow& r);

namespace {

#define MBU_INLINE inline __attribute__((always_inline))

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

// stride_w == 1: lanes are pixels; channel c sets bit c of every lane that reaches its threshold. 64 pixels
// at a time read whole cache lines of each channel, one after another.
template <class T>
void pack_pixels(const PackRow& r) {
  constexpr int kVectors = 4, kLanes = 16;
  const auto* input = static_cast<const typename T::Element*>(r.input);
  const int64_t words = words_of(r.channels);
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
  if (r.stride_c == 1 && r.channels > 1) return pack_channels<T>(r);
  if (r.stride_w == 1) return pack_pixels<T>(r);
  pack__scalar(r);
}

}  // namespace

void pack__avx512(const PackRow& r) {
  if (r.type == FloatType::f32) return pack_type<F32>(r);
  if (r.type == FloatType::bf16) return pack_type<BF16>(r);
  pack_type<F16>(r);
}

void unpack__avx512(const UnpackRow& r) {
  const __m512 plus = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-1.0f);
  const Word* pixel = r.input;
  float* output = r.output;
  for (int64_t i = 0; i < r.pixels; ++i, pixel += r.stride_w) {
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
