// conv2d on AMX tiles: 32 pixels x 32 channels of 32-bit counters are four of the eight tiles; two more hold
// 64 inputs of 16 pixels each, two 64 inputs of 16 channels each.
//
// The band's bits become bytes once, 1 and 0 (see the int8 layout in types.h; the processor multiplies zeros
// faster than -1), in an order that makes every operand 16 rows of 64 bytes that follow one another:
//
//   bytes [step: 64 channels][grid][row][column][64]
//
// A grid holds the picture pixels (i * step_h + r, j * step_w + c) of one remainder (r, c), those that some
// tap meets. Within a grid the taps of a convolution with steps are those of one without: output pixel (y, x)
// meets (y + row / step_h, x + column / step_w). So 16 neighbours in a row are one tile load. Where rows are
// no multiple of 16, a tile may also run on from the end of a row into the next and count a few pixels that
// do not exist.
//
// Per tap and 64 channels: four tile loads and four tdpbssd, 64 cycles of multiplication (16 x 16 x 64
// products are 16 cycles). The counters of a block go through memory to the epilogue, which runs amid the
// multiplications of the block that follows.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/kernels.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

#define MBU_INLINE inline __attribute__((always_inline))

constexpr int64_t kTilePixels = 16;
constexpr int64_t kBlockPixels = 2 * kTilePixels;
// Steps of a block that start before the epilogue of the previous one: their multiplications (64 cycles a
// step) last longer than its instructions, which the processor meanwhile executes.
constexpr int64_t kLead = 4;

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

// One tap of 64 channels: bytes from the pixel and from the start of the weights.
struct Step {
  int64_t input, weight;
};

// 16 pixels that follow one another in the bytes. Those that exist follow one another in the lists of
// Conv2dTile too; those in a gap between two rows do not exist.
struct PixelTile {
  int64_t start;  // bytes to the first
  int64_t pixel;  // index of the first that exists
  __mmask16 exists;
  int32_t border;  // the border class if all 16 exist and share it, else -1
};

struct Grid {
  int64_t row, column;  // remainders
};

// A band made ready: what the tile loop reads.
struct Band {
  Scratch memory;
  int8_t* bytes;
  int32_t* counts;  // [2 blocks][32 pixels][32 channels]
  std::vector<Grid> grids;
  std::vector<Step> steps;
  std::vector<PixelTile> tiles;
  int64_t grid_rows, grid_columns;  // of one grid, as far as outputs reach
};

// Lists the grids and, with the offsets that follow from them, the steps: channels outside, so that the
// pixels of one step's channels stay in the first-level cache while all taps pass over them.
void plan_steps(const Conv2dTile& t, Band& band) {
  const Conv2dPicture& in = t.picture;
  band.grids.clear();
  band.steps.clear();
  band.grid_rows = t.pixels / t.row_pixels;
  band.grid_columns = t.row_pixels;
  for (int64_t i = 0; i < in.taps; ++i) {
    band.grid_rows = std::max(band.grid_rows, t.pixels / t.row_pixels + in.tap[i].row / in.step_h);
    band.grid_columns = std::max(band.grid_columns, t.row_pixels + in.tap[i].column / in.step_w);
    // The first step's list, its inputs still the index of the grid.
    const Grid grid{in.tap[i].row % in.step_h, in.tap[i].column % in.step_w};
    const auto found = std::find_if(band.grids.begin(), band.grids.end(), [&](const Grid& other) {
      return other.row == grid.row && other.column == grid.column;
    });
    band.steps.push_back({found - band.grids.begin(), in.tap[i].kernel * kStepBytes});
    if (found == band.grids.end()) band.grids.push_back(grid);
  }
  const int64_t grid_pixels = band.grid_rows * band.grid_columns;
  for (int64_t i = 0; i < in.taps; ++i) {
    Step& step = band.steps[static_cast<size_t>(i)];
    const int64_t row = in.tap[i].row / in.step_h, column = in.tap[i].column / in.step_w;
    step.input = (step.input * grid_pixels + row * band.grid_columns + column) * kStepChannels;
  }
  const int64_t step_input = static_cast<int64_t>(band.grids.size()) * grid_pixels * kStepChannels;
  for (int64_t i = in.taps; i < in.taps * steps_of(in.words); ++i) {
    const Step& above = band.steps[static_cast<size_t>(i - in.taps)];
    band.steps.push_back({above.input + step_input, above.weight + in.kernel_taps * kStepBytes});
  }
}

// Row by row, or through the gaps between rows: whichever has fewer tiles.
void plan_tiles(const Conv2dTile& t, Band& band) {
  const int64_t rows = t.pixels / t.row_pixels, columns = t.row_pixels, pitch = band.grid_columns;
  const int64_t by_row = (columns + kTilePixels - 1) / kTilePixels;
  const int64_t through = ((rows - 1) * pitch + columns + kTilePixels - 1) / kTilePixels;
  const bool joined = through < rows * by_row;
  band.tiles.resize(static_cast<size_t>(joined ? through : rows * by_row));
  int64_t row = 0, column = 0, pixel = 0;
  for (PixelTile& tile : band.tiles) {
    tile = {(row * pitch + column) * kStepChannels, pixel, 0, -1};
    for (int64_t p = 0; p < kTilePixels;) {  // runs of pixels and of gaps
      const bool exists = row < rows && column < columns;
      const int64_t end = exists ? columns : joined && row < rows ? pitch : column + kTilePixels;
      const int64_t run = std::min(end - column, kTilePixels - p);
      if (exists) {
        tile.exists = static_cast<__mmask16>(tile.exists | ((1u << run) - 1) << p);
        pixel += run;
      }
      p += run;
      column += run;
      if (joined && column == pitch) ++row, column = 0;
    }
    if (!joined && column >= columns) ++row, column = 0;
    if (tile.exists != 0xffff) continue;
    const int32_t* border = t.border + tile.pixel;
    const __m512i first = _mm512_set1_epi32(*border);
    if (_mm512_cmpeq_epi32_mask(_mm512_loadu_si512(border), first) == 0xffff) tile.border = *border;
  }
}

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

void expand(const Conv2dTile& t, const Band& band) {
  const Conv2dPicture& in = t.picture;
  int8_t* to = band.bytes;
  for (int64_t word = 0; word < in.words; word += 2) {
    for (const Grid& grid : band.grids) {
      // The last rows and columns of a grid may lie outside the picture; no output that exists meets those.
      const int64_t columns =
          std::min(band.grid_columns, (in.columns - grid.column + in.step_w - 1) / in.step_w);
      for (int64_t row = 0; row < band.grid_rows; ++row, to += band.grid_columns * kStepChannels) {
        const int64_t y = grid.row + row * in.step_h;
        if (y >= in.rows) continue;
        const Word* from = t.input + y * in.row_stride + grid.column * in.pixel_stride + word;
        if (word + 1 < in.words)
          expand_row<2>(from, in.step_w * in.pixel_stride, columns, to);
        else
          expand_row<1>(from, in.step_w * in.pixel_stride, columns, to);
      }
    }
  }
}

void prepare(const Conv2dTile& t, Band& band) {
  plan_steps(t, band);
  plan_tiles(t, band);
  // The last tile may start at the last pixel and read 15 more, behind the last grid.
  const int64_t pixels = steps_of(t.picture.words) * static_cast<int64_t>(band.grids.size()) *
                             band.grid_rows * band.grid_columns +
                         kTilePixels;
  constexpr int64_t kCounts = 2 * kBlockPixels * kTileChannels;
  band.counts = band.memory.get<int32_t>(kCounts + pixels * kStepChannels / 4);
  band.bytes = reinterpret_cast<int8_t*>(band.counts + kCounts);
  expand(t, band);
}

MBU_INLINE __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}

void finish_sums(const Conv2dTile& t, const PixelTile& pixels, int64_t tile, const int32_t* counts) {
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

void finish_bits(const Conv2dTile& t, const PixelTile& pixels, int64_t tile, const int32_t* counts) {
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

MBU_INLINE void finish(const Conv2dTile& t, const PixelTile* pixels, int64_t count, int64_t tile,
                       const int32_t* counts) {
  for (int64_t i = 0; i < count; ++i, counts += kTilePixels * kTileChannels) {
    if (t.sums)
      finish_sums(t, pixels[i], tile, counts);
    else
      finish_bits(t, pixels[i], tile, counts);
  }
}

// Tiles: 0 and 1 are the counters of the first 16 pixels, 2 and 3 of the second; 4 and 5 inputs, 6 and 7
// weights.
template <bool kPair>
MBU_INLINE void multiply(const Step* step, const Step* end, const int8_t* first, const int8_t* second,
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
MBU_INLINE void run_block(const Band& band, const PixelTile* pixels, const int8_t* weight, int32_t* counts,
                          const Between& between) {
  constexpr int64_t kRow = kTileChannels * sizeof(int32_t);
  const Step *step = band.steps.data(), *end = step + band.steps.size();
  const Step* lead = step + std::min<int64_t>(kLead, end - step);
  const int8_t* first = band.bytes + pixels[0].start;
  const int8_t* second = band.bytes + pixels[kPair ? 1 : 0].start;
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

}  // namespace

void conv2d_32x32__amx_int8(const Conv2dTile& t) {
  static thread_local Band band;
  prepare(t, band);
  // A tile load is invisible to the compiler: the bytes must be in memory before the first.
  __asm__ volatile("" ::: "memory");
  const TileUse use;
  const PixelTile *begin = band.tiles.data(), *end = begin + band.tiles.size();
  int32_t* counts = band.counts;
  int32_t* others = counts + kBlockPixels * kTileChannels;
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    const auto* weight = reinterpret_cast<const int8_t*>(t.weight + tile * t.weight_stride);
    int64_t unfinished = 0;  // tiles before `pixels` whose counters wait in `others`
    const PixelTile* pixels = begin;
    while (pixels != end) {
      auto finish_previous = [&] { finish(t, pixels - unfinished, unfinished, tile, others); };
      const int64_t count = std::min<int64_t>(end - pixels, 2);
      if (count == 2)
        run_block<true>(band, pixels, weight, counts, finish_previous);
      else
        run_block<false>(band, pixels, weight, counts, finish_previous);
      pixels += count;
      unfinished = count;
      std::swap(counts, others);
    }
    finish(t, pixels - unfinished, unfinished, tile, others);
  }
}

}  // namespace mbu
