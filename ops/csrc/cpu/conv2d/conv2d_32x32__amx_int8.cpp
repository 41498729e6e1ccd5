// conv2d on AMX tiles: 32 pixels x 32 channels of 32-bit counters are four of the eight tiles; two more hold
// 64 inputs of 16 pixels each, two 64 inputs of 16 channels each.
//
// The band's bits become bytes once (grids.h), 1 and 0 (see the int8 layout in types.h; the processor
// multiplies zeros faster than -1): a cell is 64 channels, and 16 neighbours in a row are one tile load.
//
// Per tap and 64 channels: four tile loads and four tdpbssd, 64 cycles of multiplication (16 x 16 x 64
// products are 16 cycles). The counters of a block go through memory to the epilogue, which runs amid the
// multiplications of the block that follows.
#include "cpu/conv2d/amx_tiles.h"

namespace mbu {

bool conv2d_64x32__amx_int8(const Conv2dTile&);

namespace {

// A band made ready: what the tile loop reads.
struct Band {
  Scratch memory;
  Grids grids;
  std::vector<ByteStep> kept;  // steps of a tile
  int8_t* bytes;
  int32_t* counts;  // [2 blocks][32 pixels][32 channels]
};

void prepare(const Conv2dTile& t, Band& band) {
  const int64_t words = t.picture.words, steps = steps_of(words);
  plan_steps(t, kShape, steps, band.grids);
  plan_tiles(t, kShape, band.grids);
  // The last tile may start at the last pixel and read 15 more, behind the last grid.
  const int64_t pixels = steps * band.grids.plane_pixels() + kTilePixels;
  constexpr int64_t kCounts = 2 * kBlockPixels * kTileChannels;
  band.counts = band.memory.get<int32_t>(kCounts + pixels * kStepChannels / 4);
  band.bytes = reinterpret_cast<int8_t*>(band.counts + kCounts);
  expand(t, kShape, steps, band.grids, band.bytes,
         [&](int64_t step, const Word* from, int64_t stride, int64_t count, int8_t* to) {
           if (2 * step + 1 < words)
             expand_row<2>(from + 2 * step, stride, count, to);
           else
             expand_row<1>(from + 2 * step, stride, count, to);
         });
}

void finish_tiles(const Conv2dTile& t, const PixelTile* pixels, int64_t count, int64_t tile,
                  const int32_t* counts) {
  for (const PixelTile* end = pixels + count; pixels != end; ++pixels, counts += kTilePixels * kTileChannels)
    finish_pixels(t, *pixels, tile, [&](int p, __m512i& low, __m512i& high) {
      low = load(counts + p * kTileChannels);
      high = load(counts + p * kTileChannels + 16);
    });
}

}  // namespace

void conv2d_32x32__amx_int8(const Conv2dTile& t) {
  if (conv2d_64x32__amx_int8(t)) return;
  static thread_local Band band;
  prepare(t, band);
  // A tile load is invisible to the compiler: the bytes must be in memory before the first.
  __asm__ volatile("" ::: "memory");
  const TileUse use;
  const PixelTile *begin = band.grids.tiles.data(), *end = begin + band.grids.tiles.size();
  int32_t* counts = band.counts;
  int32_t* others = counts + kBlockPixels * kTileChannels;
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    const auto* weight = reinterpret_cast<const int8_t*>(t.weight + tile * t.weight_stride);
    const auto& steps = steps_of_tile(t, kShape, band.grids, tile, 2, band.kept);
    const ByteStep *step = steps.data(), *last = step + steps.size();
    int64_t unfinished = 0;  // tiles before `pixels` whose counters wait in `others`
    const PixelTile* pixels = begin;
    while (pixels != end) {
      const int64_t count = std::min<int64_t>(end - pixels, 2);
      const int8_t* first = band.bytes + pixels[0].start;
      const int8_t* second = count == 2 ? band.bytes + pixels[1].start : nullptr;
      run_block(step, last, first, second, weight, counts,
                [&] { finish_tiles(t, pixels - unfinished, unfinished, tile, others); });
      pixels += count;
      unfinished = count;
      std::swap(counts, others);
    }
    finish_tiles(t, pixels - unfinished, unfinished, tile, others);
  }
}

}  // namespace mbu
