// conv2d on AMX tiles with half the products: F(4, 3) of Winograd along y, exact in integers. Four output
// rows y0 .. y3 from six input rows d0 .. d5 and the three kernel rows g0, g1, g2, for each column of the
// kernel:
//
//   m0 = 6 (4 d0 - 5 d2 + d4) g0                    24 y0 = m0 + (m1 + m2) + (m3 + m4)
//   m1 = 4 (4 d2 - d4 + 4 d1 - d3) (g0 + g1 + g2)   24 y1 = (m1 - m2) + 2 (m3 - m4)
//   m2 = 4 (4 d2 - d4 - 4 d1 + d3) (g0 - g1 + g2)   24 y2 = (m1 + m2) + 4 (m3 + m4)
//   m3 = (d4 - d2 + 2 (d3 - d1)) (g0 + 2 g1 + 4 g2) 24 y3 = (m1 - m2) + 8 (m3 - m4) + m5
//   m4 = (d4 - d2 - 2 (d3 - d1)) (g0 - 2 g1 + 4 g2)
//   m5 = 24 (4 d1 - 5 d3 + d5) g2
//
// Six products for twelve. Activations of 0 and 1 become -120 .. 120 and weights of -1, 0, 1 become -7 .. 7,
// bytes both; the counts come out 24 times as large and are compared with limits 24 times as large.
//
//   bytes [product: 6][step: 64 channels][four output rows][column][64]
//
// A block is 16 columns twice, of four rows each: 128 pixels x 32 channels. Blocks go in groups: all of a
// group meet the weights of one product, which so stay in the first-level cache, before any meets the next.
// Counters are kept once: the epilogue of a block runs amid the first product of its successor in the next
// group and reads them before that is stored.
#include "cpu/conv2d/finish_four_rows.h"

namespace mbu {
namespace {

// Blocks that meet the weights of a product one after another.
constexpr int64_t kGroup = 4;
// Fewer do not pay for the larger epilogue.
constexpr int64_t kLeastWords = 3;
// Beyond, a float could not hold 24 times a count, and soon 32 bits not what a product adds up to.
constexpr int64_t kMostWords = 1 << 11;

struct RowsBand {
  Scratch memory;
  std::vector<ByteStep> steps;  // of a product; words of kernel row 0
  std::vector<RowsTile> tiles;
  int64_t rows, columns;  // of the bytes, in cells
  int64_t product_bytes;
  int32_t *counts, *limits;  // [block of a group][product], and 24 times the table of the epilogue
  int8_t *weights, *bytes;
};

bool mostly_present(const Conv2dTile& t) {
  int64_t present = 0;
  for (int64_t i = t.tile_begin * t.present_words; i < t.tile_end * t.present_words; ++i)
    present += __builtin_popcount(t.present[i]);
  return 2 * present > (t.tile_end - t.tile_begin) * t.picture.taps * t.picture.words;
}

// Whether the layer is of the kind this kernel computes and has fewer products so than directly.
bool suits(const Conv2dTile& t) {
  const Conv2dPicture& in = t.picture;
  if (in.step_h != 1 || in.step_w != 1 || in.taps != kTaps * kTaps) return false;
  if (in.words < kLeastWords || in.words > kMostWords || (t.present && !mostly_present(t))) return false;
  // Of a 3x3 kernel, whose picture may lie on its side.
  const int64_t row = in.tap[kTaps].kernel, column = in.tap[1].kernel;
  if (row + column != kTaps + 1) return false;
  for (int64_t i = 0; i < in.taps; ++i)
    if (in.tap[i].kernel != i / kTaps * row + i % kTaps * column || in.tap[i].row != i / kTaps) return false;
  const int64_t rows = t.pixels / t.row_pixels, by_row = (t.row_pixels + kTilePixels - 1) / kTilePixels;
  const int64_t direct = std::min((t.pixels + kTilePixels - 1) / kTilePixels, rows * by_row);
  return kProducts * ((rows + kRows - 1) / kRows) * by_row < kTaps * direct;
}

// From the middle on to both sides.
void find_same(const Conv2dTile& t, RowsTile& tile) {
  const int middle = tile.columns / 2;
  const auto same = [&](int column) {
    for (int64_t row = 0; row < kRows; ++row) {
      const int32_t* border = t.border + tile.pixel + row * t.row_pixels;
      if (border[column] != border[middle]) return false;
    }
    return true;
  };
  tile.same_begin = tile.same_end = middle;
  while (tile.same_begin > 0 && same(tile.same_begin - 1)) --tile.same_begin;
  while (tile.same_end < tile.columns && same(tile.same_end)) ++tile.same_end;
}

void plan(const Conv2dTile& t, RowsBand& band) {
  const Conv2dPicture& in = t.picture;
  const int64_t rows = t.pixels / t.row_pixels;
  band.rows = (rows + kRows - 1) / kRows;
  band.columns = t.row_pixels + std::max(in.tap[0].column, in.tap[kTaps - 1].column);
  const int64_t step_bytes = band.rows * band.columns * kStepChannels;
  band.product_bytes = (in.words + 1) / 2 * step_bytes;
  band.steps.clear();
  for (int64_t word = 0; word < in.words; word += 2) {
    const int64_t plane = word / 2 * step_bytes;
    const bool whole = word + 1 < in.words;
    for (int64_t i = 0; i < kTaps; ++i) {
      const int64_t cell = whole ? kStepChannels : kStepChannels / 2,
                    first = in.tap[i].kernel * in.words + word;
      ByteStep step{plane + in.tap[i].column * cell, cell, first, whole ? first + 1 : -1};
      if (!whole && i + 1 < kTaps && in.tap[i + 1].column == in.tap[i].column + 1)
        step.second = in.tap[++i].kernel * in.words + word;
      band.steps.push_back(step);
    }
  }
  band.tiles.clear();
  for (int64_t row = 0; row < rows; row += kRows) {
    for (int64_t x = 0; x < t.row_pixels; x += kTilePixels) {
      RowsTile tile{row / kRows * band.columns + x,
                    row * t.row_pixels + x,
                    static_cast<int>(std::min<int64_t>(rows - row, kRows)),
                    static_cast<int>(std::min(t.row_pixels - x, kTilePixels)),
                    0,
                    0};
      if (tile.rows == kRows) find_same(t, tile);
      band.tiles.push_back(tile);
    }
  }
}

// The six combinations of input rows, of one step; `to` is the first product's.
template <int kWords>
void expand_rows(const Conv2dTile& t, const RowsBand& band, int64_t word, int8_t* to) {
  constexpr int64_t kCell = kWords * kWordBits;
  const Conv2dPicture& in = t.picture;
  const int64_t product_bytes = band.product_bytes;  // in a register: bytes may be anything, even `band`
  const auto byte = [](int value) MBU_LAMBDA { return _mm512_set1_epi8(static_cast<char>(value)); };
  for (int64_t row = 0; row < band.rows; ++row, to += band.columns * kCell) {
    const Word* from[kProducts];
    for (int64_t r = 0; r < kProducts; ++r)  // below the last output row any row will do
      from[r] = t.input + std::min(kRows * row + r, in.rows - 1) * in.row_stride + word;
    for_pixels<kWords>(in.pixel_stride, band.columns, [&](int64_t i, const auto& bits) MBU_LAMBDA {
      __mmask64 d[kProducts];
      each<kProducts>([&](int r) MBU_LAMBDA { d[r] = bits(from[r]); });
      const auto times = [&](int r, int value)
                             MBU_LAMBDA { return _mm512_maskz_mov_epi8(d[r], byte(value)); };
      const auto plus = [&](__m512i x, int r, int value)
                            MBU_LAMBDA { return _mm512_mask_add_epi8(x, d[r], x, byte(value)); };
      const __m512i even = plus(times(2, 16), 4, -4), odd = plus(times(1, 16), 3, -4);
      const __m512i near = plus(times(4, 1), 2, -1), far = plus(times(3, 2), 1, -2);
      const __m512i product[kProducts] = {plus(plus(times(0, 24), 2, -30), 4, 6),
                                          _mm512_add_epi8(even, odd),
                                          _mm512_sub_epi8(even, odd),
                                          _mm512_add_epi8(near, far),
                                          _mm512_sub_epi8(near, far),
                                          plus(plus(times(1, 96), 3, -120), 5, 24)};
      each<kProducts>(
          [&](int k) MBU_LAMBDA { _mm512_storeu_si512(to + k * product_bytes + i * kCell, product[k]); });
    });
  }
}

void prepare(const Conv2dTile& t, RowsBand& band) {
  plan(t, band);
  const int64_t words = t.picture.words, limits = (t.table_size + 15) / 16 * 16;
  const int64_t weights = kProducts * static_cast<int64_t>(band.steps.size()) * kStepBytes;
  // The last tile may start at the last pixel and read 15 more.
  const int64_t bytes = kProducts * band.product_bytes + kTilePixels * kStepChannels;
  band.counts = band.memory.get<int32_t>(kGroup * kBlockCounts + limits + (weights + bytes) / 4);
  band.limits = band.counts + kGroup * kBlockCounts;
  band.weights = reinterpret_cast<int8_t*>(band.limits + limits);
  band.bytes = band.weights + weights;
  int8_t* to = band.bytes;
  for (int64_t word = 0; word < words; word += 2, to += band.rows * band.columns * kStepChannels) {
    if (word + 1 < words)
      expand_rows<2>(t, band, word, to);
    else
      expand_rows<1>(t, band, word, to);
  }
  if (t.bits)
    std::transform(t.table, t.table + t.table_size, band.limits, [](int32_t x) { return kFactor * x; });
}

// The six combinations of kernel rows, of every step: [product][step].
void expand_weights(const Conv2dTile& t, const RowsBand& band, int64_t tile) {
  const Word* weight = t.weight + tile * t.weight_stride;
  const int64_t row_words = t.picture.tap[kTaps].kernel * t.picture.words * 2 * kTileChannels;
  const int64_t product_bytes = static_cast<int64_t>(band.steps.size()) * kStepBytes;
  int8_t* to = band.weights;
  for (const ByteStep& step : band.steps) {
    for (int64_t half = 0; half < kTileChannels; half += kTileChannels / 2) {
      for (const int64_t word : {step.first, step.second}) {
        Planes planes[kTaps] = {};
        if (word >= 0)
          each<kTaps>([&](int i) MBU_LAMBDA {
            const Word* from = weight + i * row_words + word * 2 * kTileChannels + half;
            planes[i] = load_planes(from);
            // Of the next step that this tap has: tap by tap, no hardware prefetcher sees what comes.
            __builtin_prefetch(from + 4 * kTileChannels);
            __builtin_prefetch(from + 5 * kTileChannels);
          });
        each<8>([&](int row) MBU_LAMBDA {
          const __m512i g0 = weight_row(planes[0], row), g1 = weight_row(planes[1], row),
                        g2 = weight_row(planes[2], row);
          const __m512i outer = _mm512_add_epi8(g0, g2), two = _mm512_add_epi8(g1, g1),
                        twice = _mm512_add_epi8(g2, g2);
          const __m512i far = _mm512_add_epi8(g0, _mm512_add_epi8(twice, twice));
          const __m512i product[kProducts] = {g0,
                                              _mm512_add_epi8(outer, g1),
                                              _mm512_sub_epi8(outer, g1),
                                              _mm512_add_epi8(far, two),
                                              _mm512_sub_epi8(far, two),
                                              g2};
          each<kProducts>([&](int k) MBU_LAMBDA {
            _mm512_store_si512(to + k * product_bytes + row * kStepChannels, product[k]);
          });
        });
        to += 8 * kStepChannels;
      }
    }
  }
}

// One product of a block. `between` runs while it multiplies.
template <bool kPair, class Between>
MBU_INLINE void run_product(const RowsBand& band, const RowsTile* pixels, const int8_t* bytes,
                            const int8_t* weight, int32_t* counts, const Between& between) {
  const ByteStep *step = band.steps.data(), *end = step + band.steps.size();
  const int64_t first = pixels[0].start, second = kPair ? pixels[1].start : 0;
  zero_counters<kPair>();
  const auto multiply = [&](int i) MBU_LAMBDA {
    const int8_t* input = bytes + step[i].input;
    const int64_t stride = step[i].stride;
    multiply_first(input + first * stride, stride, weight + i * kStepBytes);
    if constexpr (kPair) multiply_second(input + second * stride, stride);
  };
  for (; end - step >= kTaps; step += kTaps, weight += kTaps * kStepBytes) each<kTaps>(multiply);
  for (; step != end; ++step, weight += kStepBytes) multiply(0);
  between();
  store_first(counts);
  if constexpr (kPair) store_second(counts);
}

// The products of the tiles [begin, end), two to a block. The blocks before them, from `unfinished` on, are
// finished while theirs multiply for the first time.
void run_group(const Conv2dTile& t, const RowsBand& band, const RowsTile* unfinished, const RowsTile* begin,
               const RowsTile* end, int64_t tile) {
  const auto finish = [&](const int32_t* counts) {
    const int64_t count = std::min<int64_t>(begin - unfinished, 2);
    finish_block(t, unfinished, count, tile, band.limits, counts);
    unfinished += count;
  };
  const int8_t *bytes = band.bytes, *weight = band.weights;
  for (int64_t product = 0; product < kProducts; ++product) {
    int32_t* counts = band.counts;
    for (const RowsTile* pixels = begin; pixels < end; pixels += 2, counts += kBlockCounts) {
      const auto between = [&] {
        if (product == 0) finish(counts);
        fetch_some(t);
      };
      if (end - pixels > 1)
        run_product<true>(band, pixels, bytes, weight, counts + product * kProductCounts, between);
      else
        run_product<false>(band, pixels, bytes, weight, counts + product * kProductCounts, between);
    }
    for (; unfinished != begin; counts += kBlockCounts) finish(counts);
    bytes += band.product_bytes;
    weight += static_cast<int64_t>(band.steps.size()) * kStepBytes;
  }
}

}  // namespace

// Returns false, and leaves everything as it is, where the direct kernel is to run.
bool conv2d_128x32__amx_int8(const Conv2dTile& t) {
  if (!suits(t)) return false;
  static thread_local RowsBand band;
  prepare(t, band);
  const TileUse use;
  spread_fetches(t, kProducts * static_cast<int64_t>(band.tiles.size()));
  const RowsTile *begin = band.tiles.data(), *end = begin + band.tiles.size();
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    expand_weights(t, band, tile);
    // A tile load is invisible to the compiler: the bytes must be in memory before the first.
    __asm__ volatile("" ::: "memory");
    const RowsTile *unfinished = begin, *group = begin;
    while (group != end) {
      const RowsTile* next = group + std::min<int64_t>(end - group, 2 * kGroup);
      run_group(t, band, unfinished, group, next, tile);
      unfinished = group;
      group = next;
    }
    run_group(t, band, unfinished, end, end, tile);
  }
  return true;
}

}  // namespace mbu
