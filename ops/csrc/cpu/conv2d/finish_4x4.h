// The epilogue of winograd_4x4.h: what 36 products make of a block of 4x4 outputs.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include "cpu/conv2d/expand_4x4.h"
#if defined(__AVX512F__)
#include "cpu/conv2d/finish_avx512.h"
#endif

namespace mbu {
namespace {

constexpr int kFactor = 576;

// Up to 4x4 outputs.
struct Block {
  int64_t row, column;  // of the picture
  int64_t pixel;        // index of the first
  int rows, columns;
  bool same;  // all 16 exist and share their border class
};

template <class V>
constexpr int64_t kProductCounts = V::kGroup * kTileChannels;  // [block][32]

// 576 times the counts of a register of channels of 4x4 pixels: use(row, y) gets those of a row.
template <class V, class Use>
MBU_INLINE void combine(const int32_t* counts, const Use& use) {
  using Reg = typename V::Reg;
  const auto twice = [](Reg x) MBU_LAMBDA { return V::add32(x, x); };
  Reg m[kSide][kPoints];
  each<kPoints>([&](int j) MBU_LAMBDA {
    const auto at = [&](int i) MBU_LAMBDA { return V::load(counts + (i * kPoints + j) * kProductCounts<V>); };
    const Reg m1 = at(1), m2 = at(2), m3 = at(3), m4 = at(4);
    const Reg sum = V::add32(m1, m2), difference = V::sub32(m1, m2);
    const Reg sums = V::add32(m3, m4), differences = V::sub32(m3, m4);
    m[0][j] = V::add32(at(0), V::add32(sum, sums));
    m[1][j] = V::add32(difference, twice(differences));
    m[2][j] = V::add32(sum, V::template left<2>(sums));
    m[3][j] = V::add32(V::add32(difference, at(5)), V::template left<3>(differences));
  });
  each<kSide>([&](int row) MBU_LAMBDA {
    const Reg* n = m[row];
    const Reg sum = twice(V::add32(n[1], n[2])), difference = V::sub32(n[1], n[2]);
    const Reg sums = V::add32(n[3], n[4]), differences = V::sub32(n[3], n[4]);
    const Reg y[kSide] = {
        V::add32(n[0], V::add32(sum, sums)), twice(V::add32(difference, differences)),
        V::add32(sum, V::template left<2>(sums)),
        V::add32(twice(V::add32(difference, V::template left<2>(differences))), V::add32(n[5], twice(n[5])))};
    use(row, y);
  });
}

// Bits of pixels that share their border class, straight to memory. `limits` are 576 times the table's.
template <class V>
MBU_INLINE void finish_same(const Conv2dTile& t, const Block& block, int64_t tile, const int32_t* limits,
                            const int32_t* counts) {
  limits += t.border[block.pixel] + tile * kTileChannels;
  for (int64_t channel = 0; channel < kTileChannels; channel += V::kLanes) {
    combine<V>(counts + channel, [&](int row, const typename V::Reg* y) MBU_LAMBDA {
      const int64_t* target = t.target + block.pixel + row * t.row_pixels;
      const int32_t* limit = limits + channel;
      int64_t word = tile;
      for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limit += t.channels_padded) {
        const auto most = V::load(limit);
        each<kSide>([&](int column) MBU_LAMBDA {
          auto* bytes = reinterpret_cast<uint8_t*>(t.bits + target[column] + word);
          V::store_bits(bytes + channel / 8, y[column], most);
        });
      }
    });
  }
}

// The counts of a block: [row][column][32]. A multiple of 576 through 576: by 64, then times the inverse of 9
// modulo 2^32.
template <class V>
MBU_INLINE void store_counts(const int32_t* counts, int32_t* to) {
  for (int64_t channel = 0; channel < kTileChannels; channel += V::kLanes)
    combine<V>(counts + channel, [&](int row, const typename V::Reg* y) MBU_LAMBDA {
      each<kSide>([&](int column) MBU_LAMBDA {
        V::store(to + (row * kSide + column) * kTileChannels + channel,
                 V::times32(V::template right<6>(y[column]), V::ints(0x38e38e39)));
      });
    });
}

template <class V>
void finish_bits(const Conv2dTile& t, int64_t pixel, int64_t tile, const int32_t* count) {
  const int32_t* limit = t.table + t.border[pixel] + tile * kTileChannels;
  int64_t word = tile;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limit += t.channels_padded) {
    Word* to = t.bits + t.target[pixel] + word;
    for (int64_t channel = 0; channel < kTileChannels; channel += V::kLanes)
      V::store_bits(reinterpret_cast<uint8_t*>(to) + channel / 8, V::load(count + channel),
                    V::load(limit + channel));
    *to ^= t.flip[word];
  }
}

void finish_sums(const Conv2dTile& t, int64_t pixel, int64_t tile, const int32_t* count) {
  const int64_t first = tile * kTileChannels, channels = std::min(t.channels - first, kTileChannels);
  const int32_t* table = t.table + t.border[pixel] + first;
  float* sums = t.sums + t.target[pixel] + first;
  for (int64_t c = 0; c < channels; ++c) sums[c] = static_cast<float>(table[c] - 2 * count[c]);
}

#if defined(__AVX512F__)
// Returns false, and leaves everything as it is, for streams of less common kinds.
bool finish_stream(const Conv2dTile& t, const Block& block, int64_t tile, const int32_t* counts) {
  if (!block.same) return false;
  int64_t first[kSide];
  for (int64_t r = 0; r < kSide; ++r) first[r] = block.pixel + r * t.row_pixels;
  const auto dots_of = [&](int p, const Floats* nnz, Floats* y) MBU_LAMBDA {
    each<kSide>([&](int r) MBU_LAMBDA {
      const int32_t* count = counts + (r * kSide + p) * kTileChannels;
      y[r] = fused(to_floats(load(count), load(count + 16)), -2.0f, nnz[r]);  // whole numbers: exact
    });
  };
  return finish_alike<kSide>(t, first, kSide, tile, dots_of);
}
#endif

// Whether finish_same serves every plane of the tile.
bool keeps_bits(const Conv2dTile& t, int64_t tile) {
  for (int64_t plane = 0; plane < t.planes; ++plane)
    if (t.flip[tile + plane * t.out_words]) return false;
  return true;
}

template <class V>
void finish_blocks(const Conv2dTile& t, const Block* block, int64_t count, int64_t tile,
                   const int32_t* limits, const int32_t* counts) {
  alignas(64) int32_t whole[kSide * kSide * kTileChannels];
  const bool straight = t.bits && keeps_bits(t, tile);
  for (const Block* end = block + count; block != end; ++block, counts += kTileChannels) {
    if (straight && block->same) {
      finish_same<V>(t, *block, tile, limits, counts);
      continue;
    }
    store_counts<V>(counts, whole);
#if defined(__AVX512F__)
    if (t.stream && finish_stream(t, *block, tile, whole)) continue;
#endif
    for (int64_t row = 0; row < block->rows; ++row) {
      for (int64_t column = 0; column < block->columns; ++column) {
        const int64_t pixel = block->pixel + row * t.row_pixels + column;
        const int32_t* of_pixel = whole + (row * kSide + column) * kTileChannels;
        if (t.bits) {
          finish_bits<V>(t, pixel, tile, of_pixel);
          continue;
        }
#if defined(__AVX512F__)
        if (t.stream) {
          finish_floats<false>(t, pixel, tile, load(of_pixel), load(of_pixel + 16));
          continue;
        }
#endif
        finish_sums(t, pixel, tile, of_pixel);
      }
    }
  }
}

}  // namespace
}  // namespace mbu
