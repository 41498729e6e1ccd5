// pack and unpack for the two layouts that models use: channels contiguous (channels_last) and pixels
// contiguous (the default). Other strides go to the portable code.
#include <immintrin.h>

#include "cpu/kernels.h"
#include "cpu/pack/few_channels.h"
#include "cpu/unroll.h"

namespace mbu {

void pack__scalar(const PackRow& r);
bool pack_halves__avx2(const PackRow& r);

namespace {

constexpr int kLanes = 8;

MBU_INLINE __m128i load_halves(const uint16_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

// load(p) reads 8 numbers, load(p, count) fewer, touching no memory behind them.
struct F32 {
  using Element = float;
  static MBU_INLINE __m256 load(const float* p) { return _mm256_loadu_ps(p); }
  static MBU_INLINE __m256 load(const float* p, int64_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane));
  }
};

struct BF16 {
  using Element = uint16_t;
  static MBU_INLINE __m256 load(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_halves(p)), 16));
  }
};

struct F16 {
  using Element = uint16_t;
  static MBU_INLINE __m256 load(const uint16_t* p) { return _mm256_cvtph_ps(load_halves(p)); }
};

struct S8 {
  using Element = Fixed8;
  static MBU_INLINE __m256 load(const Fixed8* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_set1_ps(kFixed8Step));
  }
  static MBU_INLINE __m256 load(const Fixed8* p, int64_t count) {
    Fixed8 first[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) first[i] = p[i];
    return load(first);
  }
};

MBU_INLINE __m256 reaches(__m256 x, __m256 threshold) {
  return _mm256_cmp_ps(x, threshold, _CMP_GE_OQ);  // ordered: NaN compares false
}

// Bit i: x[i] reaches threshold[i].
MBU_INLINE Word eight_bits(__m256 x, const float* threshold) {
  return static_cast<Word>(_mm256_movemask_ps(reaches(x, _mm256_loadu_ps(threshold))));
}

// stride_c == 1: the signs of a compare are 8 bits of the output word.
template <class T>
void pack_channels(const PackRow& r) {
  const auto* pixel = static_cast<const typename T::Element*>(r.input);
  const int64_t full = r.channels / kWordBits;
  const Word valid = valid_bits(full, r.channels);
  Word* output = r.output;
  for (int64_t i = 0; i < r.pixels; ++i, pixel += r.stride_w) {
    for (int64_t k = 0; k < full; ++k) {
      const auto* x = pixel + k * kWordBits;
      const float* threshold = r.threshold + k * kWordBits;
      Word word = 0;
#pragma GCC unroll 4
      for (int c = 0; c < kWordBits; c += kLanes) word |= eight_bits(T::load(x + c), threshold + c) << c;
      *output++ = word ^ r.flip[k];
    }
    if (!valid) continue;
    Word word = 0;
    int64_t c = full * kWordBits;
    for (; c + kLanes <= r.channels; c += kLanes)
      word |= eight_bits(T::load(pixel + c), r.threshold + c) << (c % kWordBits);
    if (c < r.channels && r.channels < kLanes) {
      word |= eight_bits(T::load(pixel + c, r.channels - c), r.threshold + c) << (c % kWordBits);
    } else if (c < r.channels) {  // the last eight, some of them again
      const int64_t last = r.channels - kLanes;
      word |= eight_bits(T::load(pixel + last), r.threshold + last) >> (c - last) << (c % kWordBits);
    }
    *output++ = (word & valid) ^ r.flip[full];
  }
}

// stride_c == 1, stride_w == channels < 8: the bits of 8 pixels fit a register.
template <class T>
void pack_few_channels(const PackRow& r) {
  const FewChannels<kLanes> few(r.channels, r.threshold);
  const auto* input = static_cast<const typename T::Element*>(r.input);
  const __m256i valid = _mm256_set1_epi64x(valid_bits(0, r.channels));
  const __m256i flip = _mm256_set1_epi32(static_cast<int>(r.flip[0]));
  const int64_t c = r.channels;
  const __m256i even = _mm256_setr_epi64x(0, 2 * c, 4 * c, 6 * c),
                odd = _mm256_add_epi64(even, _mm256_set1_epi64x(c));
  PackRow rest = r;
  for (; rest.pixels >= kLanes; rest.pixels -= kLanes, rest.output += kLanes) {
    uint64_t bits = 0;
    for (int64_t v = 0; v < c; ++v, input += kLanes)
      bits |= uint64_t{eight_bits(T::load(input), few.threshold[v])} << (8 * v);
    const __m256i all = _mm256_set1_epi64x(static_cast<int64_t>(bits));
    const __m256i low = _mm256_and_si256(_mm256_srlv_epi64(all, even), valid);
    const __m256i high = _mm256_and_si256(_mm256_srlv_epi64(all, odd), valid);
    const __m256i words = _mm256_xor_si256(_mm256_or_si256(low, _mm256_slli_epi64(high, 32)), flip);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(rest.output), words);
  }
  rest.input = input;
  pack__scalar(rest);
}

// stride_w == 1: lanes are pixels; channel c sets bit c of every lane that reaches its threshold. 64 pixels
// at a time read whole cache lines of each channel, one after another.
template <class T, int kVectors>
MBU_INLINE void pack_lanes(const PackRow& r, int64_t first) {
  const auto* input = static_cast<const typename T::Element*>(r.input) + first;
  const int64_t words = words_of(r.channels);
  for (int64_t k = 0; k < words; ++k) {
    const int64_t left = r.channels - k * kWordBits, channels = left < kWordBits ? left : kWordBits;
    __m256i word[kVectors];
    for (int v = 0; v < kVectors; ++v) word[v] = _mm256_set1_epi32(static_cast<int>(r.flip[k]));
    const auto* x = input + k * kWordBits * r.stride_c;
    for (int64_t c = 0; c < channels; ++c, x += r.stride_c) {
      const __m256 threshold = _mm256_set1_ps(r.threshold[k * kWordBits + c]);
      const __m256i bit = _mm256_set1_epi32(static_cast<int>(Word{1} << c));
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const __m256i set = _mm256_castps_si256(reaches(T::load(x + v * kLanes), threshold));
        word[v] = _mm256_xor_si256(word[v], _mm256_and_si256(set, bit));
      }
    }
    if (words == 1) {
      for (int v = 0; v < kVectors; ++v)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(r.output + first + v * kLanes), word[v]);
      return;
    }
    alignas(32) Word lanes[kVectors * kLanes];
    for (int v = 0; v < kVectors; ++v)
      _mm256_store_si256(reinterpret_cast<__m256i*>(lanes + v * kLanes), word[v]);
    Word* output = r.output + first * words + k;
    for (int p = 0; p < kVectors * kLanes; ++p) output[p * words] = lanes[p];
  }
}

template <class T>
void pack_pixels(const PackRow& r) {
  int64_t i = 0;
  for (; i + 8 * kLanes <= r.pixels; i += 8 * kLanes) pack_lanes<T, 8>(r, i);
  for (; i + kLanes <= r.pixels; i += kLanes) pack_lanes<T, 1>(r, i);
  PackRow rest = r;
  rest.input = static_cast<const typename T::Element*>(r.input) + i;
  rest.pixels -= i;
  rest.output += i * words_of(r.channels);
  pack__scalar(rest);
}

template <class T>
void pack_type(const PackRow& r) {
  if (r.stride_c == 1 && r.channels > 1 && r.channels < kLanes && r.stride_w == r.channels)
    return pack_few_channels<T>(r);
  if constexpr (sizeof(typename T::Element) == 2) {
    if (pack_halves__avx2(r)) return;
  } else {
    if (r.stride_c == 1 && r.channels > 1) return pack_channels<T>(r);
    if (r.stride_w == 1) return pack_pixels<T>(r);
  }
  pack__scalar(r);
}

}  // namespace

void pack__avx2(const PackRow& r) {
  if (r.type == FloatType::f32) return pack_type<F32>(r);
  if (r.type == FloatType::bf16) return pack_type<BF16>(r);
  if (r.type == FloatType::fixed8) return pack_type<S8>(r);
  pack_type<F16>(r);
}

void unpack__avx2(const UnpackRow& r) {
  const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int64_t full = r.channels - r.channels % kLanes;
  const __m256i valid = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(r.channels - full)), lane);
  const __m256i to_sign = _mm256_sub_epi32(_mm256_set1_epi32(31), lane);  // bit i to the sign of lane i
  const Word* pixel = r.input;
  float* output = r.output;
  int64_t i = 0;
  if (full == 0 && r.stride_w == 1) {
    const FewChannels<kLanes> few(r.channels, nullptr);
    for (; i + kLanes <= r.pixels; i += kLanes, pixel += kLanes) {
      const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pixel));
      for (int64_t v = 0; v < r.channels; ++v, output += kLanes) {
        const auto load = [](const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); };
        const __m256i bit = load(few.bit[v]), own = _mm256_permutevar8x32_epi32(words, load(few.pixel[v]));
        const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(own, bit), bit);
        _mm256_storeu_ps(output, _mm256_or_ps(one, _mm256_andnot_ps(_mm256_castsi256_ps(set), sign)));
      }
    }
  }
  for (; i < r.pixels; ++i, pixel += r.stride_w, output += r.channels) {
    auto eight = [&](int64_t c) {
      const Word bits = pixel[c / kWordBits] >> (c % kWordBits);
      const __m256i set = _mm256_sllv_epi32(_mm256_set1_epi32(static_cast<int>(bits)), to_sign);
      return _mm256_or_ps(one, _mm256_andnot_ps(_mm256_castsi256_ps(set), sign));
    };
    for (int64_t c = 0; c < full; c += kLanes) _mm256_storeu_ps(output + c, eight(c));
    if (full < r.channels) _mm256_maskstore_ps(output + full, valid, eight(full));
  }
}

}  // namespace mbu
