// conv2d on AMX tiles with fewer products: F(2, 3) of Winograd along y, exact in integers. Two output rows
// from four input rows d0 .. d3 and the three kernel rows g0, g1, g2, for each column of the kernel:
//
//   m0 = (d0 - d2) g0    m1 = (d1 + d2) (g0 + g1 + g2)    m2 = (d2 - d1) (g0 - g1 + g2)    m3 = (d1 - d3) g2
//   upper = m0 + (m1 + m2) / 2 = d0 g0 + d1 g1 + d2 g2
//   lower = (m1 - m2) / 2 - m3 = d1 g0 + d2 g1 + d3 g2
//
// Four products for six. Activations of 0 and 1 become -1 .. 2 and weights of -1, 0, 1 become -3 .. 3, bytes
// both; m1 + m2 is even, so halving it once it is summed loses nothing. The tiled weight holds the sums of
// rows beside the rows (kWinogradWords in types.h).
//
//   bytes [product: 4][step: 64 channels][pair of output rows][column][64]
//
// Tiles go row by row: where rows leave much of a tile empty, the direct kernel is faster and is left to run.
// The counters of a block, four times those of a direct one, take a third of the first-level cache, so they
// are kept once: its epilogue is cut into three parts, which run amid the multiplications of its own last
// product and of the next block's first two, each before the counters that it reads are overwritten.
#include "cpu/conv2d/amx_tiles.h"

namespace mbu {
namespace {

constexpr int kProducts = 4;
constexpr int64_t kTileCounts = kTilePixels * kTileChannels;
constexpr int64_t kProductCounts = 2 * kTileCounts;  // [2 tiles][16 pixels][32 channels]
// The parts of a block (finish_block) that are finished while a product multiplies: of the block before, but
// in the last product of its own. Whole tiles, as loops of one length are foreseen (kUnrolled in
// amx_tiles.h).
struct Share {
  int begin, end;
};
constexpr Share kShares[kProducts] = {{1, 3}, {3, 4}, {4, 4}, {0, 1}};

// 16 pixels of the upper and of the lower of two output rows.
struct PairTile {
  int64_t start;  // bytes to the first
  PixelTile rows[2];
};

struct PairBand {
  Scratch memory;
  std::vector<ByteStep> steps;  // of the four products, one after another
  std::vector<PairTile> tiles;
  int64_t pairs, columns;  // rows of the bytes, and pixels in one
  int8_t* bytes;
  int32_t* counts;  // [product]

  int64_t plane_bytes() const { return pairs * columns * kStepChannels; }
};

// Whether the layer is of the kind this kernel computes and has fewer products so than directly.
bool suits(const Conv2dTile& t) {
  const Conv2dPicture& in = t.picture;
  const int64_t kernel_w = in.kernel_w;
  if (t.present) return false;  // sums of rows have no absent blocks
  if (in.step_h != 1 || in.step_w != 1 || in.taps != 3 * kernel_w || in.stored_rows != 5) return false;
  int64_t pitch = t.row_pixels;
  for (int64_t i = 0; i < in.taps; ++i) {
    if (in.tap[i].kernel != i || in.tap[i].row != i / kernel_w) return false;
    pitch = std::max(pitch, t.row_pixels + in.tap[i].column);
  }
  const int64_t rows = t.pixels / t.row_pixels, by_row = (t.row_pixels + kTilePixels - 1) / kTilePixels;
  const int64_t through = ((rows - 1) * pitch + t.row_pixels + kTilePixels - 1) / kTilePixels;
  return 4 * ((rows + 1) / 2) * by_row < 3 * std::min(through, rows * by_row);
}

void plan(const Conv2dTile& t, PairBand& band) {
  const Conv2dPicture& in = t.picture;
  const int64_t kernel_w = in.kernel_w, rows = t.pixels / t.row_pixels, steps = steps_of(in.words);
  band.pairs = (rows + 1) / 2;
  band.columns = t.row_pixels;
  for (int64_t i = 0; i < kernel_w; ++i)
    band.columns = std::max(band.columns, t.row_pixels + in.tap[i].column);
  band.steps.clear();
  int64_t plane = 0;
  for (int64_t row : {0, 3, 4, 2})  // of the stored weights: g0, the sums, g2
    for (int64_t step = 0; step < steps; ++step, plane += band.plane_bytes())
      for (int64_t i = 0; i < kernel_w; ++i)
        band.steps.push_back({plane + in.tap[i].column * kStepChannels,
                              step_index(row, step, i, steps, kernel_w) * kStepBytes});
  band.tiles.clear();
  for (int64_t row = 0; row < rows; row += 2) {
    for (int64_t x = 0; x < t.row_pixels; x += kTilePixels) {
      PairTile tile{(row / 2 * band.columns + x) * kStepChannels, {{0, 0, 0, -1}, {0, 0, 0, -1}}};
      const int64_t count = std::min(kTilePixels, t.row_pixels - x);
      for (int64_t r = row; r < std::min(row + 2, rows); ++r) {
        const int64_t pixel = r * t.row_pixels + x;
        const int32_t border = count == kTilePixels ? shared_border(t, pixel, count) : -1;
        tile.rows[r - row] = {0, pixel, (1u << count) - 1, border};
      }
      band.tiles.push_back(tile);
    }
  }
}

// The four differences of a pair of rows, for the 64 channels of `kWords` (1 or 2) words; `row` holds the
// first pixel of d0 .. d3.
template <int kWords>
void expand_pair(const Word* const* row, int64_t stride, int64_t count, int64_t product_bytes, int8_t* to) {
  const __m512i one = _mm512_set1_epi8(1);
  for (int64_t i = 0; i < count * stride; i += stride, to += kStepChannels) {
    __m512i d[4];
    each<4>([&](int r) MBU_LAMBDA {
      uint64_t bits = 0;
      std::memcpy(&bits, row[r] + i, kWords * sizeof(Word));
      d[r] = _mm512_maskz_mov_epi8(_cvtu64_mask64(bits), one);
    });
    _mm512_store_si512(to, _mm512_sub_epi8(d[0], d[2]));
    _mm512_store_si512(to + product_bytes, _mm512_add_epi8(d[1], d[2]));
    _mm512_store_si512(to + 2 * product_bytes, _mm512_sub_epi8(d[2], d[1]));
    _mm512_store_si512(to + 3 * product_bytes, _mm512_sub_epi8(d[1], d[3]));
  }
}

void prepare(const Conv2dTile& t, PairBand& band) {
  const Conv2dPicture& in = t.picture;
  plan(t, band);
  const int64_t steps = steps_of(in.words), product_bytes = steps * band.plane_bytes();
  // The last tile may start at the last pixel and read 15 more.
  const int64_t bytes = kProducts * product_bytes + kTilePixels * kStepChannels;
  band.counts = band.memory.get<int32_t>(kProducts * kProductCounts + bytes / 4);
  band.bytes = reinterpret_cast<int8_t*>(band.counts + kProducts * kProductCounts);
  int8_t* to = band.bytes;
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t pair = 0; pair < band.pairs; ++pair, to += band.columns * kStepChannels) {
      const Word* row[4];
      for (int64_t r = 0; r < 4; ++r)  // below the last pair's upper row any row will do
        row[r] = t.input + std::min(2 * pair + r, in.rows - 1) * in.row_stride + 2 * step;
      if (2 * step + 1 < in.words)
        expand_pair<2>(row, in.pixel_stride, band.columns, product_bytes, to);
      else
        expand_pair<1>(row, in.pixel_stride, band.columns, product_bytes, to);
    }
  }
}

// 16 counts of the upper and of the lower row from those of the products.
MBU_INLINE __m512i upper(const int32_t* m) {
  const __m512i sum = _mm512_add_epi32(load(m + kProductCounts), load(m + 2 * kProductCounts));
  return _mm512_add_epi32(_mm512_srai_epi32(sum, 1), load(m));
}

MBU_INLINE __m512i lower(const int32_t* m) {
  const __m512i difference = _mm512_sub_epi32(load(m + kProductCounts), load(m + 2 * kProductCounts));
  return _mm512_sub_epi32(_mm512_srai_epi32(difference, 1), load(m + 3 * kProductCounts));
}

// Parts [begin, end) of the four of a block: the upper row of each tile, then the lower. The upper row needs
// the products 0, 1 and 2, the lower 1, 2 and 3.
void finish_block(const Conv2dTile& t, const PairTile* tiles, int64_t count, int64_t tile,
                  const int32_t* counts, Share share) {
  for (int part = share.begin; part < share.end; ++part) {
    const int i = part % 2;
    if (i >= count) continue;
    const int32_t* m = counts + i * kTileCounts;
    if (part < 2)
      finish_pixels(t, tiles[i].rows[0], tile, [&](int p, __m512i& low, __m512i& high) {
        low = upper(m + p * kTileChannels);
        high = upper(m + p * kTileChannels + 16);
      });
    else
      finish_pixels(t, tiles[i].rows[1], tile, [&](int p, __m512i& low, __m512i& high) {
        low = lower(m + p * kTileChannels);
        high = lower(m + p * kTileChannels + 16);
      });
  }
}

}  // namespace

// Returns false, and leaves everything as it is, where the direct kernel is to run.
bool conv2d_64x32__amx_int8(const Conv2dTile& t) {
  if (!suits(t)) return false;
  static thread_local PairBand band;
  prepare(t, band);
  // A tile load is invisible to the compiler: the bytes must be in memory before the first.
  __asm__ volatile("" ::: "memory");
  const TileUse use;
  const PairTile *begin = band.tiles.data(), *end = begin + band.tiles.size();
  const int64_t steps = static_cast<int64_t>(band.steps.size()) / kProducts;
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    const auto* weight = reinterpret_cast<const int8_t*>(t.weight + tile * t.weight_stride);
    int64_t unfinished = 0;  // tiles before `pixels` that are not finished
    for (const PairTile* pixels = begin; pixels != end;) {
      const int64_t count = std::min<int64_t>(end - pixels, 2);
      const int8_t* first = band.bytes + pixels[0].start;
      const int8_t* second = count == 2 ? band.bytes + pixels[1].start : nullptr;
      for (int product = 0; product < kProducts; ++product) {
        const ByteStep* step = band.steps.data() + product * steps;
        const Share share = kShares[product];
        const bool own = product == kProducts - 1;
        run_block(step, step + steps, first, second, weight, band.counts + product * kProductCounts, [&] {
          finish_block(t, own ? pixels : pixels - unfinished, own ? count : unfinished, tile, band.counts,
                       share);
        });
      }
      pixels += count;
      unfinished = count;
    }
    finish_block(t, end - unfinished, unfinished, tile, band.counts, {kShares[0].begin, kShares[1].end});
  }
  return true;
}

}  // namespace mbu
