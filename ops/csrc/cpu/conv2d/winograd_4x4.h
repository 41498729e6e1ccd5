// conv2d of 3x3 layers with a quarter of the products: F(4x4, 3x3) of Winograd, exact in integers. Along y,
// four output rows y0 .. y3 from six input rows d0 .. d5 and the three kernel rows g0, g1, g2:
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
// out 576 times as large and are compared with limits 576 times as large. Where an instruction takes one
// operand without a sign (vpdpbusd), 128 is added to every input and the counters begin with -128 times the
// sum of the weights.
//
//   bytes   [group of blocks][product: 36][cell: channels of a register][block][bytes of the cell]
//   weights [product][part: 2 registers of outputs][step: 4 channels][outputs of the part][4]
//
// A block is 4x4 outputs. A group's counters of a part fill most registers; weights of a tile come from the
// second-level cache for every group, inputs in the order they are read.
//
// A class V brings the registers: kLanes 32-bit numbers, kBytes bytes, the bits of kWords words, a group of
// kGroup blocks, kOffset for inputs without a sign, and a Mask of bytes.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <array>
#include <type_traits>
#include <vector>

#include "cpu/conv2d/finish_4x4.h"
#include "cpu/stream/fetch_ahead.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

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

  uint8_t* bytes_of(const Group& group) const { return bytes + group.first * kProducts * block_bytes; }
};

void plan(const Conv2dTile& t, int64_t group_blocks, Band& band) {
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
      // What both ends of a stretch belong to, all between do (axis.h).
      const int32_t* border = t.border + block.pixel;
      const int64_t last = (kSide - 1) * t.row_pixels;
      block.same = block.rows == kSide && block.columns == kSide && border[0] == border[kSide - 1] &&
                   border[0] == border[last] && border[0] == border[last + kSide - 1];
      band.blocks.push_back(block);
    }
  }
  // Sizes differ by one at most.
  const auto blocks = static_cast<int64_t>(band.blocks.size()),
             count = (blocks + group_blocks - 1) / group_blocks;
  band.groups.clear();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = blocks * i / count;
    band.groups.push_back({first, blocks * (i + 1) / count - first});
  }
}

template <class V, int kWords>
void expand_inputs(const Conv2dTile& t, const Band& band, int64_t word) {
  const auto count = static_cast<int64_t>(band.blocks.size());
  const Group* group = band.groups.data();
  for (int64_t first = 0, next; first < count; first = next) {
    const Block& block = band.blocks[static_cast<size_t>(first)];
    for (next = first + 1; next < count && next - first < V::kGroup;) {
      if (band.blocks[static_cast<size_t>(next)].row != block.row) break;
      ++next;
    }
    expand_blocks<V, kWords>(t.picture, t.input + word, block.row, block.column, next - first, band.columns,
                             [&](int64_t i) MBU_LAMBDA {
                               while (first + i >= group->first + group->count) ++group;
                               uint8_t* to = band.bytes_of(*group) + word * kWordBits * group->count;
                               to += (first + i - group->first) * kWords * kWordBits;
                               return Place{to, group->count * band.block_bytes};
                             });
  }
}

template <class V>
void prepare(const Conv2dTile& t, Band& band) {
  plan(t, V::kGroup, band);
  const int64_t words = t.picture.words, limits = (t.table_size + 15) / 16 * 16,
                columns = (kSide * V::kGroup + kTaps - 1) * kPoints * V::kBytes;
  // Weights are in whole registers, inputs in whole words.
  const int64_t weights = (kProducts * weight_stride<V>(words) + 63) / 64 * 64;
  const int64_t bytes = static_cast<int64_t>(band.blocks.size()) * kProducts * band.block_bytes;
  const int64_t counts = kProducts * kProductCounts<V>, start = kProducts * kTileChannels;
  band.counts = band.memory.get<int32_t>(counts + start + limits + (weights + columns + bytes) / 4);
  band.start = band.counts + counts;
  band.limits = band.start + start;
  band.weights = reinterpret_cast<int8_t*>(band.limits + limits);
  band.columns = band.weights + weights;
  band.bytes = reinterpret_cast<uint8_t*>(band.columns + columns);
  int64_t word = 0;
  for (; word + V::kWords <= words; word += V::kWords) expand_inputs<V, V::kWords>(t, band, word);
  for (; word < words; ++word) expand_inputs<V, 1>(t, band, word);
  if (t.bits)
    std::transform(t.table, t.table + t.table_size, band.limits, [](int32_t x) { return kFactor * x; });
}

// What the counters of a tile begin with: the sum of each product's weights times what was added to inputs.
void start_counts(const Conv2dTile& t, const Band& band, int64_t tile, int32_t offset) {
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
        band.start[(i * kPoints + j) * kTileChannels + c] = -offset * h[j];
    }
  }
}

// One product of a group, of a part of the tile.
template <class V, int kBlocks>
MBU_INLINE void multiply_part(const int8_t* weight, const uint8_t* input, int64_t block_bytes,
                              const int32_t* start, int32_t* counts) {
  constexpr int64_t kStepBytes = 2 * V::kBytes;
  constexpr int kLines = (kBlocks * V::kBytes + 63) / 64;  // of a cell
  constexpr int64_t kAhead = 8;                            // steps
  typename V::Reg first[kBlocks], second[kBlocks];
  const auto start0 = V::load(start), start1 = V::load(start + V::kLanes);
  each<kBlocks>([&](int b) MBU_LAMBDA { first[b] = start0, second[b] = start1; });
  const auto steps = [&]<int kCell>(std::integral_constant<int, kCell>) MBU_LAMBDA {
#pragma GCC unroll 1
    for (int64_t k = 0; k < kCell; k += 4, input += 4, weight += kStepBytes) {
      // The cell after this one, a line or so for each step, and weights.
      __builtin_prefetch(input + kBlocks * kCell + k / 4 * 64 * kLines / (kCell / 4));
      each<kStepBytes / 64>([&](int line)
                                MBU_LAMBDA { __builtin_prefetch(weight + kAhead * kStepBytes + line * 64); });
      const auto weight0 = V::load(weight), weight1 = V::load(weight + V::kBytes);
      each<kBlocks>([&](int b) MBU_LAMBDA {
        const auto x = V::repeat(input + b * kCell);
        first[b] = V::dot(first[b], x, weight0);
        second[b] = V::dot(second[b], x, weight1);
      });
    }
    input += (kBlocks - 1) * kCell;
  };
  int64_t left = block_bytes;
  for (; left >= V::kBytes; left -= V::kBytes) steps(std::integral_constant<int, V::kBytes>());
  if constexpr (V::kWords > 1)
    if (left) steps(std::integral_constant<int, kWordBits>());
  each<kBlocks>([&](int b) MBU_LAMBDA {
    V::store(counts + b * kTileChannels, first[b]);
    V::store(counts + b * kTileChannels + V::kLanes, second[b]);
  });
}

// All products of a group of kBlocks blocks.
template <class V, int kBlocks>
void multiply(const Band& band, const uint8_t* input) {
  const int8_t* weight = band.weights;
  const int64_t part_bytes = band.block_bytes * 2 * V::kLanes;
  for (int64_t product = 0; product < kProducts; ++product) {
    int32_t* counts = band.counts + product * kProductCounts<V>;
    for (int64_t channel = 0; channel < kTileChannels; channel += 2 * V::kLanes, weight += part_bytes)
      multiply_part<V, kBlocks>(weight, input, band.block_bytes,
                                band.start + product * kTileChannels + channel, counts + channel);
    input += kBlocks * band.block_bytes;
    weight += V::kBytes;
  }
}

using Multiply = void (*)(const Band&, const uint8_t*);

// For a group of any number of blocks from 1 to V::kGroup.
template <class V, int... i>
constexpr std::array<Multiply, sizeof...(i)> every_multiply(std::integer_sequence<int, i...>) {
  return {multiply<V, i + 1>...};
}

template <class V>
void run_winograd(const Conv2dTile& t) {
  static constexpr auto kMultiply = every_multiply<V>(std::make_integer_sequence<int, V::kGroup>());
  static thread_local Band band;
  prepare<V>(t, band);
  FetchAhead* ahead = t.stream ? t.stream->ahead : nullptr;
  if (ahead) ahead->spread((t.tile_end - t.tile_begin) * static_cast<int64_t>(band.groups.size()));
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    expand_weights<V>(t, tile, band.weights);
    start_counts(t, band, tile, V::kOffset);
    for (const Group& group : band.groups) {
      if (ahead) ahead->some();
      kMultiply[static_cast<size_t>(group.count - 1)](band, band.bytes_of(group));
      finish_blocks<V>(t, band.blocks.data() + group.first, group.count, tile, band.limits, band.counts);
    }
  }
}

}  // namespace
}  // namespace mbu
