// What the AMX kernels share: tiles in use, bits to rows of a tile, the epilogue of a tile of counts.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <cstring>

#include "cpu/conv2d/finish_avx512.h"
#include "cpu/conv2d/grids.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

constexpr int64_t kTilePixels = 16;
constexpr int64_t kBlockPixels = 2 * kTilePixels;
// Steps written out. A processor foresees the end of a loop that is short; that of a long one it guesses
// wrong, and then multiplies nothing until all steps that are under way have ended, some 900 cycles
// (ops/bench/amx_rates.cpp, from 36 steps on).
constexpr int kUnrolled = 4;
constexpr ByteShape kShape{kStepChannels, 1, kStepBytes, kTilePixels};

// Operand of ldtilecfg: palette 1, every tile 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
// In read-only memory: compilers know only that ldtilecfg reads the first bytes and would drop stores to the
// others.
constexpr TileConfig kTiles;

// Configures the tiles while it lives. Released, they cost a context switch nothing, and a library that finds
// them unconfigured finds what it expects.
struct TileUse {
  TileUse() { _tile_loadconfig(&kTiles); }
  ~TileUse() { _tile_release(); }
  TileUse(const TileUse&) = delete;
  TileUse& operator=(const TileUse&) = delete;
};

// The bits of `words` (1 or 2) words at `from`, as bytes.
template <int kWords>
MBU_INLINE void expand_row(const Word* from, int64_t stride, int64_t count, int8_t* to) {
  const __m512i one = _mm512_set1_epi8(1);
  for (; count > 0; --count, from += stride, to += kStepChannels) {
    uint64_t bits = 0;
    std::memcpy(&bits, from, kWords * sizeof(Word));
    _mm512_store_si512(to, _mm512_maskz_mov_epi8(_cvtu64_mask64(bits), one));
  }
}

// Bits of counts that are at most `limits`, xor `flip`, to one word.
MBU_INLINE void finish_bits(__m512i low, __m512i high, __m512i limit0, __m512i limit1, Word flip, Word* out) {
  const __mmask16 a = _mm512_cmple_epi32_mask(low, limit0), b = _mm512_cmple_epi32_mask(high, limit1);
  if (flip) {
    *out = _cvtmask32_u32(_mm512_kunpackw(b, a)) ^ flip;
  } else {  // masks straight to memory: fewer instructions
    _store_mask16(reinterpret_cast<__mmask16*>(out), a);
    _store_mask16(reinterpret_cast<__mmask16*>(out) + 1, b);
  }
}

// The epilogue of a tile's pixels; counts_of(p, low, high) sets the counts of one.
template <class CountsOf>
MBU_INLINE void finish_pixels(const Conv2dTile& t, const PixelTile& pixels, int64_t tile,
                              const CountsOf& counts_of) {
  constexpr int kPixels = kTilePixels;
  const int64_t* target = t.target + pixels.pixel;
  const int32_t *border = t.border + pixels.pixel, *table = t.table + tile * kTileChannels;
  __m512i low, high;
  if (t.stream || t.sums) {
    const bool whole = t.channels - tile * kTileChannels >= kTileChannels;
    int64_t pixel = pixels.pixel;
    for (int p = 0; p < kPixels; ++p) {
      if (!(pixels.exists >> p & 1)) continue;
      counts_of(p, low, high);
      if (whole)
        finish_floats<true>(t, pixel++, tile, low, high);
      else
        finish_floats<false>(t, pixel++, tile, low, high);
    }
    return;
  }
  int64_t word = tile;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, table += t.channels_padded) {
    Word* bits = t.bits + word;
    const Word flip = t.flip[word];
    if (pixels.border >= 0) {  // most tiles; all of its pixels exist
      const __m512i limit0 = load(table + pixels.border), limit1 = load(table + pixels.border + 16);
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        counts_of(p, low, high);
        finish_bits(low, high, limit0, limit1, flip, bits + target[p]);
      }
      continue;
    }
    for (int p = 0, i = 0; p < kPixels; ++p) {
      if (!(pixels.exists >> p & 1)) continue;
      counts_of(p, low, high);
      const int32_t* limit = table + border[i];
      finish_bits(low, high, load(limit), load(limit + 16), flip, bits + target[i++]);
    }
  }
}

// The two halves of a step. Tiles: 0 and 1 are the counters of the first 16 pixels, 2 and 3 of the second; 4
// and 5 inputs, 6 and 7 weights.
MBU_INLINE void multiply_first(const ByteStep& step, const int8_t* first, const int8_t* weight) {
  _tile_loadd(4, first + step.input, kStepChannels);
  _tile_loadd(6, weight + step.weight, kStepChannels);
  _tile_dpbssd(0, 4, 6);
  _tile_loadd(7, weight + step.weight + kStepBytes / 2, kStepChannels);
  _tile_dpbssd(1, 4, 7);
}

MBU_INLINE void multiply_second(const ByteStep& step, const int8_t* second) {
  _tile_loadd(5, second + step.input, kStepChannels);
  _tile_dpbssd(2, 5, 6);
  _tile_dpbssd(3, 5, 7);
}

// Counters of one or two tiles of pixels. `between` runs while the last steps multiply: the processor comes
// to it long before they have. The first tile's counters are stored ahead of the second's last products, so
// that the multiplier has work meanwhile.
template <bool kPair, class Between>
MBU_INLINE void run_tiles_of(const ByteStep* step, const ByteStep* end, const int8_t* first,
                             const int8_t* second, const int8_t* weight, int32_t* counts,
                             const Between& between) {
  constexpr int64_t kRow = kTileChannels * sizeof(int32_t);
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kPair) {
    _tile_zero(2);
    _tile_zero(3);
  }
  const ByteStep* last = end - (step != end);
  const auto multiply = [&](int i) MBU_LAMBDA {
    multiply_first(step[i], first, weight);
    if constexpr (kPair) multiply_second(step[i], second);
  };
  for (; last - step >= kUnrolled; step += kUnrolled) each<kUnrolled>(multiply);
  for (; step != last; ++step) multiply(0);
  if (last != end) multiply_first(*last, first, weight);
  between();
  _tile_stored(0, counts, kRow);
  _tile_stored(1, counts + 16, kRow);
  if constexpr (kPair) {
    if (last != end) multiply_second(*last, second);
    _tile_stored(2, counts + kTilePixels * kTileChannels, kRow);
    _tile_stored(3, counts + kTilePixels * kTileChannels + 16, kRow);
  }
}

// `second` may be null: no second tile.
template <class Between>
MBU_INLINE void run_block(const ByteStep* step, const ByteStep* end, const int8_t* first,
                          const int8_t* second, const int8_t* weight, int32_t* counts,
                          const Between& between) {
  if (second)
    run_tiles_of<true>(step, end, first, second, weight, counts, between);
  else
    run_tiles_of<false>(step, end, first, second, weight, counts, between);
}

}  // namespace
}  // namespace mbu
