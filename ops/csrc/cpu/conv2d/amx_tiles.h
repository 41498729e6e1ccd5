// What the AMX kernels share: tiles in use, bits to rows of a tile, the epilogue of a tile of counts.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <immintrin.h>

#include <cstring>

#include "cpu/conv2d/grids.h"
#include "cpu/unroll.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

constexpr int64_t kTilePixels = 16;
constexpr int64_t kBlockPixels = 2 * kTilePixels;
// Steps of a block that start before the epilogue of the previous one: their multiplications (64 cycles a
// step) last longer than its instructions, which the processor meanwhile executes.
constexpr int64_t kLead = 4;
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

MBU_INLINE __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}

inline void finish_sums(const Conv2dTile& t, const PixelTile& pixels, int64_t tile, const int32_t* counts) {
  const int64_t left = t.channels - tile * kTileChannels;
  const __mmask32 valid = left >= kTileChannels ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
  int64_t pixel = pixels.pixel;
  for (unsigned exists = pixels.exists; exists; exists >>= 1, counts += kTileChannels) {
    if (!(exists & 1)) continue;
    const int32_t* base = t.table + t.border[pixel] + tile * kTileChannels;
    float* sums = t.sums + t.target[pixel++] + tile * kTileChannels;
    const __m512i a = _mm512_sub_epi32(load(base), _mm512_slli_epi32(load(counts), 1));
    const __m512i b = _mm512_sub_epi32(load(base + 16), _mm512_slli_epi32(load(counts + 16), 1));
    _mm512_mask_storeu_ps(sums, static_cast<__mmask16>(valid), _mm512_cvtepi32_ps(a));
    _mm512_mask_storeu_ps(sums + 16, static_cast<__mmask16>(valid >> 16), _mm512_cvtepi32_ps(b));
  }
}

MBU_INLINE Word at_most(const int32_t* counts, __m512i limit0, __m512i limit1) {
  const __mmask16 a = _mm512_cmple_epi32_mask(load(counts), limit0);
  const __mmask16 b = _mm512_cmple_epi32_mask(load(counts + 16), limit1);
  return _cvtmask32_u32(_mm512_kunpackw(b, a));
}

inline void finish_bits(const Conv2dTile& t, const PixelTile& pixels, int64_t tile, const int32_t* counts) {
  const int32_t* limits = t.table + tile * kTileChannels;
  const int64_t* target = t.target + pixels.pixel;
  int64_t word = tile;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limits += t.channels_padded) {
    const Word flip = t.flip[word];
    Word* out = t.bits + word;
    if (pixels.border >= 0) {
      const __m512i limit0 = load(limits + pixels.border), limit1 = load(limits + pixels.border + 16);
#pragma GCC unroll 16
      for (int64_t p = 0; p < kTilePixels; ++p)
        out[target[p]] = at_most(counts + p * kTileChannels, limit0, limit1) ^ flip;
      continue;
    }
    const int32_t* count = counts;
    int64_t pixel = pixels.pixel;
    for (unsigned exists = pixels.exists; exists; exists >>= 1, count += kTileChannels) {
      if (!(exists & 1)) continue;
      const int32_t* limit = limits + t.border[pixel];
      out[t.target[pixel++]] = at_most(count, load(limit), load(limit + 16)) ^ flip;
    }
  }
}

// The epilogue of 16 pixels x 32 channels.
inline void finish(const Conv2dTile& t, const PixelTile& pixels, int64_t tile, const int32_t* counts) {
  if (t.sums)
    finish_sums(t, pixels, tile, counts);
  else
    finish_bits(t, pixels, tile, counts);
}

// Tiles: 0 and 1 are the counters of the first 16 pixels, 2 and 3 of the second; 4 and 5 inputs, 6 and 7
// weights.
template <bool kPair>
MBU_INLINE void multiply(const ByteStep* step, const ByteStep* end, const int8_t* first, const int8_t* second,
                         const int8_t* weight) {
  for (; step != end; ++step) {
    _tile_loadd(4, first + step->input, kStepChannels);
    _tile_loadd(6, weight + step->weight, kStepChannels);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, weight + step->weight + kStepBytes / 2, kStepChannels);
    _tile_dpbssd(1, 4, 7);
    if constexpr (kPair) {
      _tile_loadd(5, second + step->input, kStepChannels);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
  }
}

// Counters of one or two tiles of pixels; `between` runs while the first steps multiply.
template <bool kPair, class Between>
MBU_INLINE void run_tiles_of(const ByteStep* step, const ByteStep* end, const int8_t* first,
                             const int8_t* second, const int8_t* weight, int32_t* counts,
                             const Between& between) {
  constexpr int64_t kRow = kTileChannels * sizeof(int32_t);
  const ByteStep* lead = step + std::min<int64_t>(kLead, end - step);
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kPair) {
    _tile_zero(2);
    _tile_zero(3);
  }
  multiply<kPair>(step, lead, first, second, weight);
  between();
  multiply<kPair>(lead, end, first, second, weight);
  _tile_stored(0, counts, kRow);
  _tile_stored(1, counts + 16, kRow);
  if constexpr (kPair) {
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
