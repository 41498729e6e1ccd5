// conv2d with a quarter of the products: F(4x4, 3x3) of Winograd, exact in integers. Along y, four output
// rows y0 .. y3 from six input rows d0 .. d5 and the three kernel rows g0, g1, g2:
//
//   m0 = (4 d0 - 5 d2 + d4) 6 g0                       24 y0 = m0 + (m1 + m2) + (m3 + m4)
//   m1 = (4 d2 - d4 + 4 d1 - d3) 4 (g0 + g1 + g2)      24 y1 = (m1 - m2) + 2 (m3 - m4)
//   m2 = (4 d2 - d4 - 4 d1 + d3) 4 (g0 - g1 + g2)      24 y2 = (m1 + m2) + 4 (m3 + m4)
//   m3 = (d4 - d2 + 2 (d3 - d1)) (g0 + 2 g1 + 4 g2)    24 y3 = (m1 - m2) + 8 (m3 - m4) + m5
//   m4 = (d4 - d2 - 2 (d3 - d1)) (g0 - 2 g1 + 4 g2)
//   m5 = 2 (4 d1 - 5 d3 + d5) 12 g2
//
// and of each of these the same along x, where bytes have no room left for all factors: 2 instead of 4 in m1
// and m2, 8 g2 and no factor of its inputs in m5; the counters make up for it, 2 (m1 +- m2) and 3 m5. 36
// products for 144. Activations of 0 and 1 become -100 .. 100 and weights -96 .. 96, bytes both; counts come
// out 576 times as large and are compared with limits 576 times as large. vpdpbusd takes one operand without
// a sign, so 128 is added to every input and the counters begin with -128 times the sum of the weights.
//
//   bytes   [group of up to 12 blocks][product: 36][cell: 64 channels][block][64]
//   weights [product][step: 4 channels][32 outputs][4]
//
// A block is 4x4 outputs. A group's counters are 24 registers, which each step adds 24 products of 64 to;
// weights of a tile come from the second-level cache for every group, inputs in the order they are read.
#include "cpu/conv2d/finish_4x4.h"
#include "cpu/stream/fetch_ahead.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

constexpr int64_t kStepBytes = 4 * kTileChannels;  // of weights
// Images with fewer rows or columns may be cut where outputs miss taps (axis.h).
constexpr int64_t kLeastSide = 8;
// Fewer do not pay for making bytes of the weights.
constexpr int64_t kLeastBlocks = 16;
// Beyond, 32 bits would not hold 576 times a limit.
constexpr int64_t kMostWords = 1 << 11;

// Where a block's bytes of the first product are, and from there to the next product.
struct Place {
  uint8_t* bytes;
  int64_t step;
};

// Blocks that meet the weights together.
struct Group {
  int64_t first, count;
};

struct Band {
  Scratch memory;
  std::vector<Block> blocks;
  std::vector<Group> groups;
  int64_t block_bytes;  // of a block in one product
  int32_t *counts, *start, *limits;
  int8_t *weights, *columns;
  uint8_t* bytes;

  uint8_t* bytes_of_group(const Group& group) const { return bytes + group.first * kProducts * block_bytes; }
};

void plan(const Conv2dTile& t, Band& band) {
  const int64_t rows = t.pixels / t.row_pixels;
  band.block_bytes = t.picture.words * kWordBits;
  band.blocks.clear();
  for (int64_t row = 0; row < rows; row += kSide) {
    for (int64_t x = 0; x < t.row_pixels; x += kSide) {
      Block block{row,
                  x,
                  row * t.row_pixels + x,
                  static_cast<int>(std::min<int64_t>(rows - row, kSide)),
                  static_cast<int>(std::min<int64_t>(t.row_pixels - x, kSide)),
                  false};
      const int32_t* border = t.border + block.pixel;
      // What both ends of a stretch belong to, all between do (axis.h).
      const int64_t last = (kSide - 1) * t.row_pixels;
      block.same = block.rows == kSide && block.columns == kSide && border[0] == border[kSide - 1] &&
                   border[0] == border[last] && border[0] == border[last + kSide - 1];
      band.blocks.push_back(block);
    }
  }
  // Groups of sizes that differ by one at most.
  const auto count = static_cast<int64_t>(band.blocks.size()), groups = (count + kGroup - 1) / kGroup;
  band.groups.clear();
  for (int64_t i = 0; i < groups; ++i) {
    const int64_t first = count * i / groups;
    band.groups.push_back({first, count * (i + 1) / groups - first});
  }
}

template <int kWords>
void expand_inputs(const Conv2dTile& t, const Band& band, int64_t word) {
  const auto count = static_cast<int64_t>(band.blocks.size());
  const Group* group = band.groups.data();
  for (int64_t first = 0, next; first < count; first = next) {
    const Block& block = band.blocks[static_cast<size_t>(first)];
    for (next = first + 1; next < count && next - first < kGroup;) {
      if (band.blocks[static_cast<size_t>(next)].row != block.row) break;
      ++next;
    }
    expand_blocks<kWords>(t.picture, t.input + word, block.row, block.column, next - first, band.columns,
                          [&](int64_t i) MBU_LAMBDA {
                            while (first + i >= group->first + group->count) ++group;
                            uint8_t* to = band.bytes_of_group(*group) + word * kWordBits * group->count;
                            to += (first + i - group->first) * kWords * kWordBits;
                            return Place{to, group->count * band.block_bytes};
                          });
  }
}

void prepare(const Conv2dTile& t, Band& band) {
  plan(t, band);
  const int64_t limits = (t.table_size + 15) / 16 * 16,
                columns = (kSide * kGroup + kTaps - 1) * kPoints * kRowBytes;
  const int64_t weights = kProducts * weight_stride(t.picture.words);
  const int64_t bytes = static_cast<int64_t>(band.blocks.size()) * kProducts * band.block_bytes;
  const int64_t counts = kProducts * kProductCounts, start = kProducts * kTileChannels;
  band.counts = band.memory.get<int32_t>(counts + start + limits + (weights + columns + bytes) / 4);
  band.start = band.counts + counts;
  band.limits = band.start + start;
  band.weights = reinterpret_cast<int8_t*>(band.limits + limits);
  band.columns = band.weights + weights;
  band.bytes = reinterpret_cast<uint8_t*>(band.columns + columns);
  int64_t word = 0;
  for (; word + 1 < t.picture.words; word += 2) expand_inputs<2>(t, band, word);
  if (word < t.picture.words) expand_inputs<1>(t, band, word);
  if (t.bits)
    std::transform(t.table, t.table + t.table_size, band.limits, [](int32_t x) { return kFactor * x; });
}

// What the counters of a tile begin with: -128 times the sum of each product's weights.
void start_counts(const Conv2dTile& t, const Band& band, int64_t tile) {
  const auto combined = [](const int32_t* g, const int32_t (&factor)[3], int32_t* h) {
    const int32_t outer = g[0] + g[2], far = g[0] + 4 * g[2];
    const int32_t all[kPoints] = {factor[0] * g[0],
                                  factor[1] * (outer + g[1]),
                                  factor[1] * (outer - g[1]),
                                  far + 2 * g[1],
                                  far - 2 * g[1],
                                  factor[2] * g[2]};
    std::copy_n(all, kPoints, h);
  };
  for (int64_t c = 0; c < kTileChannels; ++c) {
    int32_t rows[kTaps][kPoints], h[kPoints];  // [kernel column][product along y]
    for (int64_t column = 0; column < kTaps; ++column) {
      int32_t g[kTaps];
      for (int64_t r = 0; r < kTaps; ++r)
        g[r] = -t.weight_sum[t.picture.tap[r * kTaps + column].kernel * t.channels_padded +
                             tile * kTileChannels + c];
      combined(g, {6, 4, 12}, rows[column]);
    }
    for (int64_t i = 0; i < kPoints; ++i) {
      const int32_t g[kTaps] = {rows[0][i], rows[1][i], rows[2][i]};
      combined(g, {6, 2, 8}, h);
      for (int64_t j = 0; j < kPoints; ++j)
        band.start[(i * kPoints + j) * kTileChannels + c] = -kOffset * h[j];
    }
  }
}

// All products of a group of kBlocks blocks.
template <int kBlocks>
void multiply(const Band& band, const uint8_t* input) {
  const int64_t step = band.block_bytes;
  const int8_t* weight = band.weights;
  for (int64_t product = 0; product < kProducts; ++product) {
    __m512i low[kBlocks], high[kBlocks];
    const __m512i start0 = load(band.start + product * kTileChannels),
                  start1 = load(band.start + product * kTileChannels + 16);
    each<kBlocks>([&](int b) MBU_LAMBDA { low[b] = start0, high[b] = start1; });
    const auto steps = [&]<int kCell>(std::integral_constant<int, kCell>) MBU_LAMBDA {
      for (int64_t k = 0; k < kCell; k += 4, input += 4, weight += kStepBytes) {
        // The cell after this one, a line for each step, and weights eight steps ahead.
        __builtin_prefetch(input + (kBlocks - 1) * kCell + k * 15);
        __builtin_prefetch(weight + 8 * kStepBytes);
        __builtin_prefetch(weight + 8 * kStepBytes + kRowBytes);
        const __m512i weight0 = _mm512_load_si512(weight), weight1 = _mm512_load_si512(weight + kRowBytes);
        each<kBlocks>([&](int b) MBU_LAMBDA {
          int32_t four;
          __builtin_memcpy(&four, input + b * kCell, sizeof(four));
          const __m512i x = _mm512_set1_epi32(four);
          low[b] = _mm512_dpbusd_epi32(low[b], x, weight0);
          high[b] = _mm512_dpbusd_epi32(high[b], x, weight1);
        });
      }
      input += (kBlocks - 1) * kCell;
    };
    for (int64_t cell = 0; cell + 64 <= step; cell += 64) steps(std::integral_constant<int, 64>());
    if (step % 64) steps(std::integral_constant<int, 32>());
    int32_t* counts = band.counts + product * kProductCounts;
    each<kBlocks>([&](int b) MBU_LAMBDA {
      _mm512_store_si512(counts + b * kTileChannels, low[b]);
      _mm512_store_si512(counts + b * kTileChannels + 16, high[b]);
    });
    weight += kRowBytes;
  }
}

using Multiply = void (*)(const Band&, const uint8_t*);
constexpr Multiply kMultiply[] = {nullptr,      multiply<1>,  multiply<2>, multiply<3>, multiply<4>,
                                  multiply<5>,  multiply<6>,  multiply<7>, multiply<8>, multiply<9>,
                                  multiply<10>, multiply<11>, multiply<12>};

}  // namespace

bool suits_avx512vnni(const Conv2dParams& p) {
  const auto is = [](Extent size, int64_t value) { return size.h == value && size.w == value; };
  if (p.transposed || !is(p.kernel, kTaps) || !is(p.stride, 1) || !is(p.dilation, 1)) return false;
  if (p.padding.h > 1 || p.padding.w > 1 || p.output.h < kLeastSide || p.output.w < kLeastSide) return false;
  if (p.weight.header().skips || p.weight.header().tile_words > kMostWords) return false;
  const int64_t blocks = ((p.output.h + kSide - 1) / kSide) * ((p.output.w + kSide - 1) / kSide);
  return blocks >= kLeastBlocks && 4 * p.output.h * p.output.w >= 3 * blocks * kSide * kSide;
}

void conv2d_192x32__avx512vnni(const Conv2dTile& t) {
  static thread_local Band band;
  prepare(t, band);
  FetchAhead* ahead = t.stream ? t.stream->ahead : nullptr;
  if (ahead) ahead->spread((t.tile_end - t.tile_begin) * static_cast<int64_t>(band.groups.size()));
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    expand_weights(t, tile, band.weights);
    start_counts(t, band, tile);
    for (const Group& group : band.groups) {
      if (ahead) ahead->some();
      kMultiply[group.count](band, band.bytes_of_group(group));
      finish_blocks(t, band.blocks.data() + group.first, group.count, tile, band.limits, band.counts);
    }
  }
  if (t.stream && t.stream->past_caches) _mm_sfence();
}

}  // namespace mbu
