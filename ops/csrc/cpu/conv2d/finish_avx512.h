// What AVX-512 kernels make of the counts of a pixel's 32 channels where the result is float.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <immintrin.h>

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

MBU_INLINE void store_floats(float* to, Floats y, __mmask32 valid) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(valid), y.low);
  _mm512_mask_storeu_ps(to + 16, static_cast<__mmask16>(valid >> 16), y.high);
}

// As `narrow` in mbu/bfloat16.h.
MBU_INLINE __m256i round_floats(__m512 y) {
  const __m512i bits = _mm512_castps_si512(y), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(
      _mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), nan, _mm512_set1_epi32(kBfloat16Nan)));
}

MBU_INLINE void store_floats(Bfloat16* to, Floats y, __mmask32 valid) {
#if defined(__AVX512BF16__)
  // The instruction takes denormals for zero and keeps the bits of a NaN: neither is what `narrow` does.
  constexpr int kQuiet = 0x01, kDenormal = 0x20, kSignalling = 0x80,
                kSpecial = kQuiet | kDenormal | kSignalling;
  if (!(_mm512_fpclass_ps_mask(y.low, kSpecial) | _mm512_fpclass_ps_mask(y.high, kSpecial))) {
    _mm512_mask_storeu_epi16(to, valid, (__m512i)_mm512_cvtne2ps_pbh(y.high, y.low));
    return;
  }
#endif
  const __m512i low = _mm512_castsi256_si512(round_floats(y.low));
  _mm512_mask_storeu_epi16(to, valid, _mm512_inserti64x4(low, round_floats(y.high), 1));
}

MBU_INLINE Floats dot_products(const Conv2dTile& t, int64_t pixel, int64_t channel, __m512i low,
                               __m512i high) {
  const int32_t* nnz = t.table + t.border[pixel] + channel;
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(load(nnz), _mm512_slli_epi32(low, 1))),
          _mm512_cvtepi32_ps(_mm512_sub_epi32(load(nnz + 16), _mm512_slli_epi32(high, 1)))};
}

template <class Value>
MBU_INLINE Floats shortcut_of(const StreamEpilogue& s, int64_t pixel, int64_t tile, __mmask32 valid) {
  const void* const* term = s.shortcut + tile * s.terms;
  const int64_t offset = s.source[pixel];
  Floats sum = load_floats(static_cast<const Value*>(term[0]) + offset, valid);
  if (s.terms == 1) return sum;
  for (int64_t i = 1; i < s.terms; ++i) {
    const Floats value = load_floats(static_cast<const Value*>(term[i]) + offset, valid);
    sum = {_mm512_add_ps(sum.low, value.low), _mm512_add_ps(sum.high, value.high)};
  }
  const __m512 share = _mm512_set1_ps(s.share);
  return {_mm512_mul_ps(sum.low, share), _mm512_mul_ps(sum.high, share)};
}

// The float stream's arithmetic on the counts of a pixel; see cpu/stream/stream.h.
MBU_INLINE void finish_stream(const Conv2dTile& t, int64_t pixel, int64_t tile, __mmask32 valid, __m512i low,
                              __m512i high) {
  const StreamEpilogue& s = *t.stream;
  const int64_t channel = tile * kTileChannels;
  Floats y = dot_products(t, pixel, channel, low, high);
  const float* parameters = s.affine + channel;
  for (int64_t step = 0; step < s.steps; ++step, parameters += 2 * t.channels) {
    const Floats factor = load_floats(parameters, valid),
                 offset = load_floats(parameters + t.channels, valid);
    y = {_mm512_fmadd_ps(y.low, factor.low, offset.low), _mm512_fmadd_ps(y.high, factor.high, offset.high)};
  }
  if (s.terms) {
    const Floats shortcut = s.shortcut_type == FloatType::bf16 ? shortcut_of<Bfloat16>(s, pixel, tile, valid)
                                                               : shortcut_of<float>(s, pixel, tile, valid);
    y = {_mm512_add_ps(y.low, shortcut.low), _mm512_add_ps(y.high, shortcut.high)};
  }
  if (s.relu) {  // keeps NaN, the second operand
    const __m512 zero = _mm512_setzero_ps();
    y = {_mm512_max_ps(zero, y.low), _mm512_max_ps(zero, y.high)};
  }
  const int64_t out = t.target[pixel] + channel;
  if (s.narrow)
    store_floats(s.narrow + out, y, valid);
  else
    store_floats(s.output + out, y, valid);
}

// Runs of `count` pixels in kRows rows, each of one border class, with all 32 channels of the tile: what they
// share stays in registers. twice_of(p, low, high) gives twice the counts of pixel p of every row.
template <int kRows, int kSteps, bool kShortcut, class Value, class CountsOf>
MBU_INLINE void finish_alike_as(const Conv2dTile& t, const int64_t* first, int count, int64_t tile,
                                Value* output, const CountsOf& twice_of) {
  constexpr __mmask32 kAll = ~__mmask32{0};
  const StreamEpilogue& s = *t.stream;
  const bool relu = s.relu;
  const int64_t channel = tile * kTileChannels;
  __m512i nnz[kRows][2];
  const int64_t *target[kRows], *source[kRows];
  each<kRows>([&](int r) MBU_LAMBDA {
    const int32_t* row = t.table + t.border[first[r]] + channel;
    nnz[r][0] = load(row);
    nnz[r][1] = load(row + 16);
    target[r] = t.target + first[r];
    source[r] = s.source + (kShortcut ? first[r] : 0);
  });
  Floats factor[kSteps], offset[kSteps];
  each<kSteps>([&](int i) MBU_LAMBDA {
    factor[i] = load_floats(s.affine + 2 * i * t.channels + channel, kAll);
    offset[i] = load_floats(s.affine + (2 * i + 1) * t.channels + channel, kAll);
  });
  const Value* shortcut = kShortcut ? static_cast<const Value*>(s.shortcut[tile]) : nullptr;
  output += channel;
  for (int p = 0; p < count; ++p) {
    __m512i low[kRows], high[kRows];
    twice_of(p, low, high);
    each<kRows>([&](int r) MBU_LAMBDA {
      Floats y{_mm512_cvtepi32_ps(_mm512_sub_epi32(nnz[r][0], low[r])),
               _mm512_cvtepi32_ps(_mm512_sub_epi32(nnz[r][1], high[r]))};
      each<kSteps>([&](int i) MBU_LAMBDA {
        y = {_mm512_fmadd_ps(y.low, factor[i].low, offset[i].low),
             _mm512_fmadd_ps(y.high, factor[i].high, offset[i].high)};
      });
      if constexpr (kShortcut) {
        const Floats value = load_floats(shortcut + source[r][p], kAll);
        y = {_mm512_add_ps(y.low, value.low), _mm512_add_ps(y.high, value.high)};
      }
      if (relu) {  // keeps NaN, the second operand
        const __m512 zero = _mm512_setzero_ps();
        y = {_mm512_max_ps(zero, y.low), _mm512_max_ps(zero, y.high)};
      }
      store_floats(output + target[r][p], y, kAll);
    });
  }
}

// Returns false, and leaves everything as it is, for streams of less common kinds.
template <int kRows, class CountsOf>
inline bool finish_alike(const Conv2dTile& t, const int64_t* first, int count, int64_t tile,
                         const CountsOf& twice_of) {
  const StreamEpilogue* s = t.stream;
  if (!s || s->steps < 1 || s->steps > 2 || s->terms > 1 || t.channels - tile * kTileChannels < kTileChannels)
    return false;
  const FloatType type = s->narrow ? FloatType::bf16 : FloatType::f32;
  if (s->terms && s->shortcut_type != type) return false;
  const auto finish = [&](auto* output) {
    if (s->steps == 1)
      s->terms ? finish_alike_as<kRows, 1, true>(t, first, count, tile, output, twice_of)
               : finish_alike_as<kRows, 1, false>(t, first, count, tile, output, twice_of);
    else
      s->terms ? finish_alike_as<kRows, 2, true>(t, first, count, tile, output, twice_of)
               : finish_alike_as<kRows, 2, false>(t, first, count, tile, output, twice_of);
  };
  s->narrow ? finish(s->narrow) : finish(s->output);
  return true;
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
