// What AVX-512 kernels make of the counts of a pixel's 32 channels where the result is float.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <immintrin.h>

#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/unroll.h"

namespace mbu {
namespace {

MBU_INLINE __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}

// 32 channels of a pixel, as two halves; channels that are not `valid` are 0.
struct Floats {
  __m512 low, high;
};

MBU_INLINE Floats load_floats(const float* from, __mmask32 valid) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(valid), from),
          _mm512_maskz_loadu_ps(static_cast<__mmask16>(valid >> 16), from + 16)};
}

MBU_INLINE Floats load_floats(const Bfloat16* from, __mmask32 valid) {
  const __m512i halves = _mm512_maskz_loadu_epi16(valid, from);
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(halves));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(halves, 1));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(low, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(high, 16))};
}

// In sixteenths: the factor comes later, where it costs nothing.
MBU_INLINE Floats load_floats(const Fixed8* from, __mmask32 valid) {
  const __m256i bytes = _mm256_maskz_loadu_epi8(valid, from);
  const auto floats = [](__m128i half) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(half)); };
  return {floats(_mm256_castsi256_si128(bytes)), floats(_mm256_extracti128_si256(bytes, 1))};
}

MBU_INLINE void store_floats(float* to, Floats y, __mmask32 valid) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(valid), y.low);
  _mm512_mask_storeu_ps(to + 16, static_cast<__mmask16>(valid >> 16), y.high);
}

// As `narrow` in mbu/float_type.h.
MBU_INLINE __m256i round_floats(__m512 y) {
  const __m512i bits = _mm512_castps_si512(y), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(
      _mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), nan, _mm512_set1_epi32(kBfloat16Nan)));
}

MBU_INLINE __m512i narrowed(Floats y) {
#if defined(__AVX512BF16__)
  // The instruction takes denormals for zero and keeps the bits of a NaN: neither is what `narrow` does.
  constexpr int kQuiet = 0x01, kDenormal = 0x20, kSignalling = 0x80,
                kSpecial = kQuiet | kDenormal | kSignalling;
  if (!(_mm512_fpclass_ps_mask(y.low, kSpecial) | _mm512_fpclass_ps_mask(y.high, kSpecial)))
    return (__m512i)_mm512_cvtne2ps_pbh(y.high, y.low);
#endif
  return _mm512_inserti64x4(_mm512_castsi256_si512(round_floats(y.low)), round_floats(y.high), 1);
}

MBU_INLINE void store_floats(Bfloat16* to, Floats y, __mmask32 valid) {
  _mm512_mask_storeu_epi16(to, valid, narrowed(y));
}

// As `narrow`: what is too small for an integer, and NaN, becomes the least one and stays it.
MBU_INLINE __m128i fixed(__m512 y) {
  const __m512 steps = _mm512_min_ps(_mm512_set1_ps(127), _mm512_mul_ps(y, _mm512_set1_ps(kFixed8Steps)));
  return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(steps));
}

MBU_INLINE void store_floats(Fixed8* to, Floats y, __mmask32 valid) {
  _mm256_mask_storeu_epi8(to, valid, _mm256_set_m128i(fixed(y.high), fixed(y.low)));
}

// All 32 channels, from the start of a line on: past the caches, which would read the line first.
MBU_INLINE void store_past(float* to, Floats y) {
  _mm512_stream_ps(to, y.low);
  _mm512_stream_ps(to + 16, y.high);
}

MBU_INLINE void store_past(Bfloat16* to, Floats y) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), narrowed(y));
}

MBU_INLINE void store_past(Fixed8* to, Floats y) {  // half a line: never asked for
  store_floats(to, y, ~__mmask32{0});
}

MBU_INLINE Floats dot_products(const Conv2dTile& t, int64_t pixel, int64_t channel, __m512i low,
                               __m512i high) {
  const int32_t* nnz = t.table + t.border[pixel] + channel;
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(load(nnz), _mm512_slli_epi32(low, 1))),
          _mm512_cvtepi32_ps(_mm512_sub_epi32(load(nnz + 16), _mm512_slli_epi32(high, 1)))};
}

// Calls `with` with a value of the type.
template <class With>
MBU_INLINE void of_type(FloatType type, const With& with) {
  if (type == FloatType::bf16) return with(Bfloat16{});
  type == FloatType::fixed8 ? with(Fixed8{}) : with(float{});
}

// Lane by lane; a NaN stays where it is the first.
MBU_INLINE Floats larger(Floats a, Floats b) {
  return {_mm512_max_ps(b.low, a.low), _mm512_max_ps(b.high, a.high)};
}

MBU_INLINE Floats operator+(Floats a, Floats b) {
  return {_mm512_add_ps(a.low, b.low), _mm512_add_ps(a.high, b.high)};
}

MBU_INLINE Floats operator*(Floats a, float b) {
  return {_mm512_mul_ps(a.low, _mm512_set1_ps(b)), _mm512_mul_ps(a.high, _mm512_set1_ps(b))};
}

MBU_INLINE Floats fused(Floats y, Floats factor, Floats offset) {
  return {_mm512_fmadd_ps(y.low, factor.low, offset.low), _mm512_fmadd_ps(y.high, factor.high, offset.high)};
}

MBU_INLINE Floats fused(Floats y, float factor, Floats offset) {
  return fused(y, Floats{_mm512_set1_ps(factor), _mm512_set1_ps(factor)}, offset);
}

MBU_INLINE Floats without_negative(Floats y) {  // keeps NaN, the second operand
  const __m512 zero = _mm512_setzero_ps();
  return {_mm512_max_ps(zero, y.low), _mm512_max_ps(zero, y.high)};
}

// The largest of a window of pool x pool pixels; kPool 0: of any size.
template <int kPool, class Value>
MBU_INLINE Floats pooled(const StreamEpilogue& s, const Value* from, __mmask32 valid) {
  const int64_t pool = kPool ? kPool : s.pool;
  Floats most = load_floats(from, valid);
  for (int64_t y = 0; y < pool; ++y)
    for (int64_t x = y == 0; x < pool; ++x)
      most = larger(most, load_floats(from + y * s.pool_h + x * s.pool_w, valid));
  return most;
}

// y and its shortcut. kTerms 0: as many as there are.
template <int kTerms, int kPool, class Value>
MBU_INLINE Floats with_shortcut(Floats y, const StreamEpilogue& s, int64_t offset, int64_t tile,
                                __mmask32 valid) {
  const int64_t terms = kTerms ? kTerms : s.terms;
  const void* const* term = s.shortcut + tile * terms;
  Floats sum = pooled<kPool>(s, static_cast<const Value*>(term[0]) + offset, valid);
  for (int64_t i = 1; i < terms; ++i)
    sum = sum + pooled<kPool>(s, static_cast<const Value*>(term[i]) + offset, valid);
  // The sum of integers, its share and its unit are exact: rounded once, as if one followed the other.
  if constexpr (std::is_same_v<Value, Fixed8>) return fused(sum, s.share * kFixed8Step, y);
  return y + (terms == 1 ? sum : sum * s.share);
}

// Bits of the next layer, of one pixel; `to` is the tile's word of its first plane.
MBU_INLINE void store_bits(const StreamEpilogue& s, Floats y, const float* threshold, __mmask32 valid,
                           Word* to) {
  for (int64_t plane = 0; plane < s.planes; ++plane, threshold += s.threshold_stride, to += s.words) {
    const Floats least = load_floats(threshold, valid);
    const __mmask16 low = _mm512_cmp_ps_mask(y.low, least.low, _CMP_GE_OQ);
    const __mmask16 high = _mm512_cmp_ps_mask(y.high, least.high, _CMP_GE_OQ);
    *to = _cvtmask32_u32(_mm512_kunpackw(high, low)) & _cvtmask32_u32(valid);
  }
}

// The float stream's arithmetic on the counts of a pixel; see cpu/stream/stream.h.
MBU_INLINE void finish_stream(const Conv2dTile& t, int64_t pixel, int64_t tile, __mmask32 valid, __m512i low,
                              __m512i high) {
  const StreamEpilogue& s = *t.stream;
  const int64_t channel = tile * kTileChannels;
  Floats y = dot_products(t, pixel, channel, low, high);
  const float* parameters = s.affine + channel;
  for (int64_t step = 0; step < s.steps; ++step, parameters += 2 * t.channels)
    y = fused(y, load_floats(parameters, valid), load_floats(parameters + t.channels, valid));
  if (s.terms)
    of_type(s.shortcut_type, [&](auto value) MBU_LAMBDA {
      y = with_shortcut<0, 0, decltype(value)>(y, s, s.source[pixel], tile, valid);
    });
  if (s.relu) y = without_negative(y);
  const int64_t out = t.target[pixel] + channel;
  of_type(s.type, [&](auto value) MBU_LAMBDA {
    store_floats(static_cast<decltype(value)*>(s.output) + out, y, valid);
  });
  if (s.planes) store_bits(s, y, s.threshold + channel, valid, s.bits + s.bits_target[pixel] + tile);
}

// Where a pixel's shortcut comes from: nowhere; one pixel; the mean of two or four; the largest of 2x2.
enum class Shortcut { none, one, two, four, pool2x2 };

// Runs of `count` pixels in kRows rows, each of one border class: what they share stays in registers.
// twice_of(p, low, high) gives twice the counts of pixel p of every row.
template <int kRows, Shortcut kShortcut, class Value, class Output, class CountsOf>
MBU_INLINE void finish_alike_as(const Conv2dTile& t, const int64_t* first, int count, int64_t tile,
                                const CountsOf& twice_of) {
  [[maybe_unused]] constexpr int kTerms = kShortcut == Shortcut::two    ? 2
                                          : kShortcut == Shortcut::four ? 4
                                                                        : 1;
  [[maybe_unused]] constexpr int kPool = kShortcut == Shortcut::pool2x2 ? 2 : 1;
  const StreamEpilogue& s = *t.stream;
  const bool relu = s.relu, past_caches = s.past_caches, bits_too = s.planes > 0;
  const int64_t channel = tile * kTileChannels;
  const __mmask32 valid = valid_bits(tile, t.channels);
  __m512i nnz[kRows][2];
  const int64_t *target[kRows], *source[kRows], *bits_target[kRows];
  each<kRows>([&](int r) MBU_LAMBDA {
    const int32_t* row = t.table + t.border[first[r]] + channel;
    nnz[r][0] = load(row);
    nnz[r][1] = load(row + 16);
    target[r] = t.target + first[r];
    source[r] = kShortcut == Shortcut::none ? nullptr : s.source + first[r];
    bits_target[r] = bits_too ? s.bits_target + first[r] : nullptr;
  });
  const float* affine = s.affine + channel;
  const Floats factor0 = load_floats(affine, valid), offset0 = load_floats(affine + t.channels, valid);
  // A second step that is not there changes nothing, not even the sign of a zero.
  Floats factor1{_mm512_set1_ps(1), _mm512_set1_ps(1)}, offset1{_mm512_set1_ps(-0.0f), _mm512_set1_ps(-0.0f)};
  if (s.steps == 2) {
    factor1 = load_floats(affine + 2 * t.channels, valid);
    offset1 = load_floats(affine + 3 * t.channels, valid);
  }
  const float* threshold = bits_too ? s.threshold + channel : nullptr;
  Word* bits = bits_too ? s.bits + tile : nullptr;
  Output* output = static_cast<Output*>(s.output) + channel;
  for (int p = 0; p < count; ++p) {
    __m512i low[kRows], high[kRows];
    twice_of(p, low, high);
    each<kRows>([&](int r) MBU_LAMBDA {
      Floats y{_mm512_cvtepi32_ps(_mm512_sub_epi32(nnz[r][0], low[r])),
               _mm512_cvtepi32_ps(_mm512_sub_epi32(nnz[r][1], high[r]))};
      y = fused(fused(y, factor0, offset0), factor1, offset1);
      if constexpr (kShortcut != Shortcut::none)
        y = with_shortcut<kTerms, kPool, Value>(y, s, source[r][p], tile, valid);
      if (relu) y = without_negative(y);
      past_caches ? store_past(output + target[r][p], y) : store_floats(output + target[r][p], y, valid);
      if (bits_too) store_bits(s, y, threshold, valid, bits + bits_target[r][p]);
    });
  }
}

// Returns false, and leaves everything as it is, for streams of less common kinds.
template <int kRows, class CountsOf>
inline bool finish_alike(const Conv2dTile& t, const int64_t* first, int count, int64_t tile,
                         const CountsOf& twice_of) {
  const StreamEpilogue* s = t.stream;
  if (!s || s->steps < 1 || s->steps > 2) return false;
  if (s->terms == 3 || s->terms > 4 || s->pool > 2 || (s->pool == 2 && s->terms > 1)) return false;
  const auto from = [&](auto value, auto output) MBU_LAMBDA {
    using Value = decltype(value);
    using Output = decltype(output);
    if (s->pool == 2)
      finish_alike_as<kRows, Shortcut::pool2x2, Value, Output>(t, first, count, tile, twice_of);
    else if (s->terms == 2)
      finish_alike_as<kRows, Shortcut::two, Value, Output>(t, first, count, tile, twice_of);
    else if (s->terms == 4)
      finish_alike_as<kRows, Shortcut::four, Value, Output>(t, first, count, tile, twice_of);
    else
      finish_alike_as<kRows, Shortcut::one, Value, Output>(t, first, count, tile, twice_of);
  };
  bool known = true;
  of_type(s->type, [&](auto output) MBU_LAMBDA {
    if (!s->terms) return finish_alike_as<kRows, Shortcut::none, float, decltype(output)>(t, first, count, tile, twice_of);
    of_type(s->shortcut_type, [&](auto value) MBU_LAMBDA {
      // A stream is stored as int8 throughout, but for its last result.
      constexpr bool kFixed = std::is_same_v<decltype(value), Fixed8>, kInto = std::is_same_v<decltype(output), Fixed8>;
      if constexpr (kFixed == kInto || (kFixed && std::is_same_v<decltype(output), float>))
        from(value, output);
      else
        known = false;
    });
  });
  return known;
}

// The float result of a pixel's counts. kWhole: the tile has all of its 32 channels.
template <bool kWhole>
MBU_INLINE void finish_floats(const Conv2dTile& t, int64_t pixel, int64_t tile, __m512i low, __m512i high) {
  const int64_t channel = tile * kTileChannels;
  const __mmask32 valid = kWhole ? ~__mmask32{0} : (__mmask32{1} << (t.channels - channel)) - 1;
  if (t.stream)
    finish_stream(t, pixel, tile, valid, low, high);
  else
    store_floats(t.sums + t.target[pixel] + channel, dot_products(t, pixel, channel, low, high), valid);
}

}  // namespace
}  // namespace mbu
