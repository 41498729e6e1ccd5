// What AVX-512 kernels make of the counts of a pixel's 32 channels where the result is float.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <type_traits>

#include "cpu/conv2d/floats_avx512.h"
#include "cpu/kernels.h"

namespace mbu {
namespace {

// Of a tile, where `left` channels remain. Not `valid_bits`: a copy of it with these instructions could be
// linked elsewhere.
MBU_INLINE __mmask32 valid_channels(int64_t left) {
  return left >= kTileChannels ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
}

MBU_INLINE Floats dot_products(const Conv2dTile& t, int64_t pixel, int64_t channel, __m512i low,
                               __m512i high) {
  const int32_t* nnz = t.table + t.border[pixel] + channel;
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(load(nnz), _mm512_slli_epi32(low, 1))),
          _mm512_cvtepi32_ps(_mm512_sub_epi32(load(nnz + 16), _mm512_slli_epi32(high, 1)))};
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

// y and its shortcut, in units of 1 / kUnit. kTerms 0: as many as there are.
template <int kTerms, int kPool, class Value, int kUnit = 1>
MBU_INLINE Floats with_shortcut(Floats y, const StreamEpilogue& s, int64_t offset, int64_t tile,
                                __mmask32 valid) {
  const int64_t terms = kTerms ? kTerms : s.terms;
  const void* const* term = s.shortcut + tile * terms;
  Floats sum = pooled<kPool>(s, static_cast<const Value*>(term[0]) + offset, valid);
  for (int64_t i = 1; i < terms; ++i)
    sum = sum + pooled<kPool>(s, static_cast<const Value*>(term[i]) + offset, valid);
  constexpr bool kSteps = std::is_same_v<Value, Fixed8>;  // loaded as whole numbers
  if constexpr (kSteps ? kUnit == kFixed8Steps : kUnit == 1) return y + (terms == 1 ? sum : sum * s.share);
  // The sum of integers, its share and its unit are exact: rounded once, as if one followed the other.
  return fused(sum, s.share * (kSteps ? kUnit / kFixed8Steps : kUnit), y);
}

// Bits of the next layer, of one plane of a pixel.
MBU_INLINE void store_bits(Floats y, Floats least, __mmask32 valid, Word* to) {
  // Masks straight to memory: joining them would take the port that vpopcntd needs.
  auto* half = reinterpret_cast<__mmask16*>(to);
  _store_mask16(half, _mm512_mask_cmp_ps_mask(static_cast<__mmask16>(valid), y.low, least.low, _CMP_GE_OQ));
  _store_mask16(half + 1,
                _mm512_mask_cmp_ps_mask(static_cast<__mmask16>(valid >> 16), y.high, least.high, _CMP_GE_OQ));
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
  of_type(s.type, [&](auto value)
                      MBU_LAMBDA { store_floats(static_cast<decltype(value)*>(s.output) + out, y, valid); });
  const float* threshold = s.threshold + channel;
  for (int64_t plane = 0; plane < s.planes; ++plane, threshold += s.threshold_stride)
    store_bits(y, load_floats(threshold, valid), valid,
               s.bits + s.bits_target[pixel] + tile + plane * s.words);
}

// Where a pixel's shortcut comes from: nowhere; one pixel; the mean of two or four; the largest of 2x2.
enum class Shortcut { none, one, two, four, pool2x2 };

// Runs of `count` pixels in kRows rows, each of one border class: what they share stays in registers.
// dots_of(p, nnz, y) gives the dot products of pixel p of every row, from the largest that they could be.
//
// What int8 stores is computed in its sixteenths: the same numbers, 16 being a power of two.
template <int kRows, Shortcut kShortcut, class Value, class Output, class DotsOf>
MBU_INLINE void finish_alike_as(const Conv2dTile& t, const int64_t* first, int count, int64_t tile,
                                const DotsOf& dots_of) {
  [[maybe_unused]] constexpr int kTerms = kShortcut == Shortcut::two    ? 2
                                          : kShortcut == Shortcut::four ? 4
                                                                        : 1;
  [[maybe_unused]] constexpr int kPool = kShortcut == Shortcut::pool2x2 ? 2 : 1;
  constexpr int kUnit = std::is_same_v<Output, Fixed8> ? 16 : 1;
  static_assert(kUnit == 1 || kUnit == kFixed8Steps);
  constexpr int kKept = 2;             // planes whose thresholds stay in registers
  const StreamEpilogue s = *t.stream;  // a copy, which no store can change
  const int64_t channel = tile * kTileChannels, planes = s.planes;
  const __mmask32 valid = valid_channels(t.channels - channel);
  Floats nnz[kRows];
  const int64_t *target[kRows], *source[kRows], *bits_target[kRows];
  each<kRows>([&](int r) MBU_LAMBDA {
    const int32_t* row = t.table + t.border[first[r]] + channel;
    nnz[r] = to_floats(load(row), load(row + 16));
    target[r] = t.target + first[r];
    source[r] = kShortcut == Shortcut::none ? nullptr : s.source + first[r];
    bits_target[r] = planes ? s.bits_target + first[r] : nullptr;
  });
  const float* affine = s.affine + channel;
  const Floats factor0 = load_floats(affine, valid), offset0 = load_floats(affine + t.channels, valid);
  // A second step that is not there changes nothing, not even the sign of a zero.
  Floats factor1{_mm512_set1_ps(1), _mm512_set1_ps(1)}, offset1{_mm512_set1_ps(-0.0f), _mm512_set1_ps(-0.0f)};
  if (s.steps == 2) {
    factor1 = load_floats(affine + 2 * t.channels, valid);
    offset1 = load_floats(affine + 3 * t.channels, valid);
  }
  factor1 = factor1 * kUnit, offset1 = offset1 * kUnit;
  Floats least[kKept];
  each<kKept>([&](int plane) MBU_LAMBDA {
    if (plane < planes)
      least[plane] = load_floats(s.threshold + channel + plane * s.threshold_stride, valid) * kUnit;
  });
  Word* bits = s.bits + tile;
  Output* output = static_cast<Output*>(s.output) + channel;
  for (int p = 0; p < count; ++p) {
    Floats dots[kRows];
    dots_of(p, nnz, dots);
    each<kRows>([&](int r) MBU_LAMBDA {
      Floats y = fused(fused(dots[r], factor0, offset0), factor1, offset1);
      if constexpr (kShortcut != Shortcut::none)
        y = with_shortcut<kTerms, kPool, Value, kUnit>(y, s, source[r][p], tile, valid);
      if (s.relu) y = without_negative(y);
      Output* to = output + target[r][p];
      if constexpr (kUnit != 1)
        store_steps(to, y, valid);
      else if (s.past_caches)
        store_past(to, y);
      else
        store_floats(to, y, valid);
      if (planes == 0) return;
      Word* word = bits + bits_target[r][p];
      store_bits(y, least[0], valid, word);
      if (planes > 1) store_bits(y, least[1], valid, word += s.words);
      for (int64_t plane = kKept; plane < planes; ++plane)
        store_bits(y, load_floats(s.threshold + channel + plane * s.threshold_stride, valid) * kUnit, valid,
                   word += s.words);
    });
  }
}

// Returns false, and leaves everything as it is, for streams of less common kinds.
template <int kRows, class DotsOf>
inline bool finish_alike(const Conv2dTile& t, const int64_t* first, int count, int64_t tile,
                         const DotsOf& dots_of) {
  const StreamEpilogue* s = t.stream;
  if (!s || s->steps < 1 || s->steps > 2) return false;
  if (s->terms == 3 || s->terms > 4 || s->pool > 2 || (s->pool == 2 && s->terms > 1)) return false;
  const auto from = [&](auto value, auto output) MBU_LAMBDA {
    using Value = decltype(value);
    using Output = decltype(output);
    if (s->pool == 2)
      finish_alike_as<kRows, Shortcut::pool2x2, Value, Output>(t, first, count, tile, dots_of);
    else if (s->terms == 2)
      finish_alike_as<kRows, Shortcut::two, Value, Output>(t, first, count, tile, dots_of);
    else if (s->terms == 4)
      finish_alike_as<kRows, Shortcut::four, Value, Output>(t, first, count, tile, dots_of);
    else
      finish_alike_as<kRows, Shortcut::one, Value, Output>(t, first, count, tile, dots_of);
  };
  bool known = true;
  of_type(s->type, [&](auto output) MBU_LAMBDA {
    if (!s->terms)
      return finish_alike_as<kRows, Shortcut::none, float, decltype(output)>(t, first, count, tile, dots_of);
    of_type(s->shortcut_type, [&](auto value) MBU_LAMBDA {
      // A stream is stored as int8 throughout, but for its last result.
      constexpr bool kFixed = std::is_same_v<decltype(value), Fixed8>,
                     kInto = std::is_same_v<decltype(output), Fixed8>;
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
  const __mmask32 valid = kWhole ? ~__mmask32{0} : valid_channels(t.channels - channel);
  if (t.stream)
    finish_stream(t, pixel, tile, valid, low, high);
  else
    store_floats(t.sums + t.target[pixel] + channel, dot_products(t, pixel, channel, low, high), valid);
}

}  // namespace
}  // namespace mbu
