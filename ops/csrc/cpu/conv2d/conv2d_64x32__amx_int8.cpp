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
// The epilogue of a block, four times as many counters as a direct one has, is cut into four parts, one amid
// the multiplications of each product of the block that follows.
#include "cpu/conv2d/amx_tiles.h"

namespace mbu {
namespace {

constexpr int kProducts = 4;
constexpr int64_t kTileCounts = kTilePixels * kTileChannels;
constexpr int64_t kBlockCounts = kProducts * 2 * kTileCounts;  // [product][2 tiles][16 pixels][32 channels]

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
  int32_t* counts;  // [2 blocks]
  int32_t* result;  // [16 pixels][32 channels]

  int64_t plane_bytes() const { return pairs * columns * kStepChannels; }
};

// Whether the layer is of the kind this kernel computes and has fewer products so than directly.
bool suits(const Conv2dTile& t) {
  const Conv2dPicture& in = t.picture;
  const int64_t kernel_w = in.taps / 3;
  if (t.present) return false;  // sums of rows have no absent blocks
  if (in.step_h != 1 || in.step_w != 1 || in.taps != 3 * kernel_w || in.stored_taps != 5 * kernel_w)
    return false;
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
  const int64_t kernel_w = in.taps / 3, rows = t.pixels / t.row_pixels;
  band.pairs = (rows + 1) / 2;
  band.columns = t.row_pixels;
  for (int64_t i = 0; i < kernel_w; ++i)
    band.columns = std::max(band.columns, t.row_pixels + in.tap[i].column);
  band.steps.clear();
  for (int64_t row : {0, 3, 4, 2}) {  // of the stored weights: g0, the sums, g2
    const int64_t product = static_cast<int64_t>(band.steps.size()) / (kernel_w * steps_of(in.words));
    for (int64_t step = 0; step < steps_of(in.words); ++step) {
      const int64_t plane = (product * steps_of(in.words) + step) * band.plane_bytes();
      for (int64_t i = 0; i < kernel_w; ++i)
        band.steps.push_back({plane + in.tap[i].column * kStepChannels,
                              (step * in.stored_taps + row * kernel_w + i) * kStepBytes});
    }
  }
  band.tiles.clear();
  for (int64_t row = 0; row < rows; row += 2) {
    for (int64_t x = 0; x < t.row_pixels; x += kTilePixels) {
      PairTile tile{(row / 2 * band.columns + x) * kStepChannels, {}};
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
  band.counts = band.memory.get<int32_t>(2 * kBlockCounts + kTileCounts + bytes / 4);
  band.result = band.counts + 2 * kBlockCounts;
  band.bytes = reinterpret_cast<int8_t*>(band.result + kTileCounts);
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

// The counts of the upper or lower row of a tile from those of its products, and their epilogue.
template <bool kLower>
MBU_INLINE void finish_row(const Conv2dTile& t, const PixelTile& pixels, int64_t tile, const int32_t* counts,
                           int32_t* result) {
  if (!pixels.exists) return;
  const int32_t *m1 = counts + 2 * kTileCounts, *m2 = counts + 4 * kTileCounts;
  const int32_t* m = kLower ? counts + 6 * kTileCounts : counts;
  for (int64_t i = 0; i < kTileCounts; i += 16) {
    const __m512i a = load(m1 + i), b = load(m2 + i), c = load(m + i);
    const __m512i half = _mm512_srai_epi32(kLower ? _mm512_sub_epi32(a, b) : _mm512_add_epi32(a, b), 1);
    _mm512_store_si512(result + i, kLower ? _mm512_sub_epi32(half, c) : _mm512_add_epi32(half, c));
  }
  finish(t, pixels, tile, result);
}

// Part 0 .. 3 of the epilogue of `count` tiles: the upper and the lower row of the first, then of the second.
MBU_INLINE void finish_part(const Conv2dTile& t, const PairTile* tiles, int64_t count, int64_t tile,
                            const int32_t* counts, int part, int32_t* result) {
  const int64_t i = part / 2;
  if (i >= count) return;
  if (part % 2)
    finish_row<true>(t, tiles[i].rows[1], tile, counts + i * kTileCounts, result);
  else
    finish_row<false>(t, tiles[i].rows[0], tile, counts + i * kTileCounts, result);
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
  int32_t* counts = band.counts;
  int32_t* others = counts + kBlockCounts;
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    const auto* weight = reinterpret_cast<const int8_t*>(t.weight + tile * t.weight_stride);
    int64_t unfinished = 0;  // tiles before `pixels` whose counters wait in `others`
    const PairTile* pixels = begin;
    while (pixels != end) {
      const int64_t count = std::min<int64_t>(end - pixels, 2);
      const int8_t* first = band.bytes + pixels[0].start;
      const int8_t* second = count == 2 ? band.bytes + pixels[1].start : nullptr;
      for (int product = 0; product < kProducts; ++product) {
        const ByteStep* step = band.steps.data() + product * steps;
        run_block(step, step + steps, first, second, weight, counts + product * 2 * kTileCounts, [&] {
          finish_part(t, pixels - unfinished, unfinished, tile, others, product, band.result);
        });
      }
      pixels += count;
      unfinished = count;
      std::swap(counts, others);
    }
    for (int part = 0; part < kProducts; ++part)
      finish_part(t, pixels - unfinished, unfinished, tile, others, part, band.result);
  }
  return true;
}

}  // namespace mbu
