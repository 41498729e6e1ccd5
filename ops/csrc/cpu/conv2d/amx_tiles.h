// What the AMX kernels share: tiles in use, bits to rows of a tile, products.
//
// Inputs and weights are bits in memory and become bytes where a band needs them: the bytes of inputs are 1
// and 0 (the processor multiplies zeros faster than -1), those of weights -w, so that a count is what their
// products add up to (see types.h). Weights so take an eighth of the memory traffic, which is what layers of
// many channels wait for.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <cstring>

#include "cpu/conv2d/finish_avx512.h"
#include "cpu/conv2d/grids.h"
#include "cpu/stream/fetch_ahead.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

constexpr int64_t kTilePixels = 16;
constexpr int64_t kStepChannels = 64;                          // a row of a tile of inputs
constexpr int64_t kStepBytes = kStepChannels * kTileChannels;  // of weights: two tiles
constexpr ByteShape kShape{2, 1, kStepChannels};

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
// them unconfigured finds what it expects. Stores past the caches end with it as well.
struct TileUse {
  TileUse() { _tile_loadconfig(&kTiles); }
  ~TileUse() {
    _tile_release();
    _mm_sfence();
  }
  TileUse(const TileUse&) = delete;
  TileUse& operator=(const TileUse&) = delete;
};

// The bits of 64 bytes: of two words of a pixel, or of one word of each of two, `stride` words apart.
template <int kWords>
MBU_INLINE __mmask64 load_bits(const Word* from, int64_t stride) {
  uint64_t bits;
  if (kWords == 2)
    std::memcpy(&bits, from, sizeof(bits));
  else
    bits = from[0] | static_cast<uint64_t>(from[stride]) << 32;
  return _cvtu64_mask64(bits);
}

// make(i, load): for 64 bytes from pixel i on, load(p) being their bits beside p[i * stride]. An odd last
// pixel has its half of them alone.
template <int kWords, class Make>
MBU_INLINE void for_pixels(int64_t stride, int64_t count, const Make& make) {
  constexpr int64_t kPixels = 3 - kWords;
  for (int64_t i = 0; i + kPixels <= count; i += kPixels)
    make(i, [&](const Word* p) MBU_LAMBDA { return load_bits<kWords>(p + i * stride, stride); });
  if (kWords == 1 && count % 2)
    make(count - 1, [&](const Word* p) MBU_LAMBDA { return _cvtu64_mask64(p[(count - 1) * stride]); });
}

// The weights of a word: which are present, and which of them +1.
struct Planes {
  __m512i mask, sign;
};

// Of 16 outputs.
MBU_INLINE Planes load_planes(const Word* at) {
  return {load(at + kTileChannels), load(at)};
}

// 16 outputs x inputs 4 * row .. 4 * row + 3, as bytes -w: a row of a tile.
MBU_INLINE __m512i weight_row(Planes weights, int row) {
  const __m512i one = _mm512_set1_epi8(1);
  // Byte i takes the bits from this one of its pair of outputs on.
  const __m512i from =
      _mm512_add_epi8(_mm512_set1_epi64(0x2322212003020100), _mm512_set1_epi8(static_cast<char>(4 * row)));
  const __m512i minus = _mm512_and_si512(_mm512_multishift_epi64_epi8(from, weights.sign), one);
  const __m512i any = _mm512_multishift_epi64_epi8(from, weights.mask);
  // (any & 1) | -minus: -1 where the weight is +1, else 1 where it is present
  return _mm512_ternarylogic_epi64(any, one, _mm512_sub_epi8(_mm512_setzero_si512(), minus), 0xea);
}

// A step: four products. Tiles: 0 and 1 are the counters of the first 16 pixels, 2 and 3 of the second; 4 and
// 5 inputs, 6 and 7 weights. In two halves, so that the first counters can be stored ahead of the last
// products. Of up to 16 channels (not kWide) the odd ones of these tiles are left out.
template <bool kWide = true>
MBU_INLINE void multiply_first(const int8_t* input, int64_t stride, const int8_t* weight) {
  _tile_loadd(4, input, stride);
  _tile_loadd(6, weight, kStepChannels);
  _tile_dpbssd(0, 4, 6);
  if constexpr (!kWide) return;
  _tile_loadd(7, weight + kStepBytes / 2, kStepChannels);
  _tile_dpbssd(1, 4, 7);
}

template <bool kWide = true>
MBU_INLINE void multiply_second(const int8_t* input, int64_t stride) {
  _tile_loadd(5, input, stride);
  _tile_dpbssd(2, 5, 6);
  if constexpr (kWide) _tile_dpbssd(3, 5, 7);
}

// A tile's counters: [pixel][channel].
constexpr int64_t kTileCounts = kTilePixels * kTileChannels;

template <bool kWide = true>
MBU_INLINE void store_first(int32_t* counts) {
  _tile_stored(0, counts, kTileChannels * sizeof(int32_t));
  if constexpr (kWide) _tile_stored(1, counts + kTileChannels / 2, kTileChannels * sizeof(int32_t));
}

template <bool kWide = true>
MBU_INLINE void store_second(int32_t* counts) {
  _tile_stored(2, counts + kTileCounts, kTileChannels * sizeof(int32_t));
  if constexpr (kWide)
    _tile_stored(3, counts + kTileCounts + kTileChannels / 2, kTileChannels * sizeof(int32_t));
}

// Blocks are of two tiles of pixels; `tiles` of these will be gone through for each tile of channels.
MBU_INLINE void spread_fetches(const Conv2dTile& t, int64_t tiles) {
  if (t.stream && t.stream->ahead) t.stream->ahead->spread((t.tile_end - t.tile_begin) * (tiles + 1) / 2);
}

// Once for each block.
MBU_INLINE void fetch_some(const Conv2dTile& t) {
  if (t.stream && t.stream->ahead) t.stream->ahead->some();
}

// The counters that a block of one or two tiles begins with.
template <bool kPair>
MBU_INLINE void zero_counters() {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kPair) {
    _tile_zero(2);
    _tile_zero(3);
  }
}

}  // namespace
}  // namespace mbu
