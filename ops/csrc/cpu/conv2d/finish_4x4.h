// The epilogue of conv2d_192x32__avx512vnni.cpp: what its 36 products make of a block of 4x4 outputs.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include "cpu/conv2d/expand_4x4.h"

namespace mbu {
namespace {

// Blocks that meet the weights together: 24 registers of counters.
constexpr int kGroup = 12;
constexpr int64_t kProductCounts = kGroup * kTileChannels;
constexpr int kFactor = 576;

// Up to 4x4 outputs.
struct Block {
  int64_t row, column;  // of the picture
  int64_t pixel;        // index of the first
  int rows, columns;
  bool same;  // all 16 exist and share their border class
};

// 576 times the counts of 16 channels of 4x4 pixels: use(row, y) gets those of a row.
template <class Use>
MBU_INLINE void combine(const int32_t* counts, const Use& use) {
  const auto twice = [](__m512i x) MBU_LAMBDA { return _mm512_add_epi32(x, x); };
  __m512i m[kSide][kPoints];
  each<kPoints>([&](int j) MBU_LAMBDA {
    const auto at = [&](int i) MBU_LAMBDA { return load(counts + (i * kPoints + j) * kProductCounts); };
    const __m512i m1 = at(1), m2 = at(2), m3 = at(3), m4 = at(4);
    const __m512i sum = _mm512_add_epi32(m1, m2), difference = _mm512_sub_epi32(m1, m2);
    const __m512i sums = _mm512_add_epi32(m3, m4), differences = _mm512_sub_epi32(m3, m4);
    m[0][j] = _mm512_add_epi32(at(0), _mm512_add_epi32(sum, sums));
    m[1][j] = _mm512_add_epi32(difference, twice(differences));
    m[2][j] = _mm512_add_epi32(sum, _mm512_slli_epi32(sums, 2));
    m[3][j] = _mm512_add_epi32(_mm512_add_epi32(difference, at(5)), _mm512_slli_epi32(differences, 3));
  });
  each<kSide>([&](int row) MBU_LAMBDA {
    const __m512i* n = m[row];
    const __m512i sum = twice(_mm512_add_epi32(n[1], n[2])), difference = _mm512_sub_epi32(n[1], n[2]);
    const __m512i sums = _mm512_add_epi32(n[3], n[4]), differences = _mm512_sub_epi32(n[3], n[4]);
    const __m512i y[kSide] = {
        _mm512_add_epi32(n[0], _mm512_add_epi32(sum, sums)), twice(_mm512_add_epi32(difference, differences)),
        _mm512_add_epi32(sum, _mm512_slli_epi32(sums, 2)),
        _mm512_add_epi32(twice(_mm512_add_epi32(difference, _mm512_slli_epi32(differences, 2))),
                         _mm512_add_epi32(n[5], twice(n[5])))};
    use(row, y);
  });
}

// A multiple of 576 through 576: by 64, then times the inverse of 9 modulo 2^32.
MBU_INLINE __m512i divide(__m512i y) {
  return _mm512_mullo_epi32(_mm512_srai_epi32(y, 6), _mm512_set1_epi32(0x38e38e39));
}

// Bits of pixels that share their border class, straight to memory. `limits` are 576 times the table's.
MBU_INLINE void finish_same(const Conv2dTile& t, const Block& block, int64_t tile, const int32_t* limits,
                            const int32_t* counts) {
  limits += t.border[block.pixel] + tile * kTileChannels;
  for (int64_t half = 0; half < 2; ++half) {
    combine(counts + half * 16, [&](int row, const __m512i* y) MBU_LAMBDA {
      const int64_t* target = t.target + block.pixel + row * t.row_pixels;
      const int32_t* limit = limits + half * 16;
      int64_t word = tile;
      for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limit += t.channels_padded) {
        const __m512i most = load(limit);
        each<kSide>([&](int column) MBU_LAMBDA {
          _store_mask16(reinterpret_cast<__mmask16*>(t.bits + target[column] + word) + half,
                        _mm512_cmple_epi32_mask(y[column], most));
        });
      }
    });
  }
}

// The counts of a block: [row][column][32].
MBU_INLINE void store_counts(const int32_t* counts, int32_t* to) {
  for (int64_t half = 0; half < 2; ++half)
    combine(counts + half * 16, [&](int row, const __m512i* y) MBU_LAMBDA {
      each<kSide>([&](int column) MBU_LAMBDA {
        _mm512_store_si512(to + (row * kSide + column) * kTileChannels + half * 16, divide(y[column]));
      });
    });
}

void finish_bits(const Conv2dTile& t, const Block& block, int64_t tile, const int32_t* counts) {
  for (int64_t row = 0; row < block.rows; ++row) {
    for (int64_t column = 0; column < block.columns; ++column) {
      const int64_t pixel = block.pixel + row * t.row_pixels + column;
      const int32_t* count = counts + (row * kSide + column) * kTileChannels;
      const int32_t* limit = t.table + t.border[pixel] + tile * kTileChannels;
      int64_t word = tile;
      for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limit += t.channels_padded) {
        const __mmask16 a = _mm512_cmple_epi32_mask(load(count), load(limit));
        const __mmask16 b = _mm512_cmple_epi32_mask(load(count + 16), load(limit + 16));
        t.bits[t.target[pixel] + word] = _cvtmask32_u32(_mm512_kunpackw(b, a)) ^ t.flip[word];
      }
    }
  }
}

void finish_floats(const Conv2dTile& t, const Block& block, int64_t tile, const int32_t* counts) {
  if (block.same) {
    int64_t first[kSide];
    for (int64_t r = 0; r < kSide; ++r) first[r] = block.pixel + r * t.row_pixels;
    const auto dots_of = [&](int p, const Floats* nnz, Floats* y) MBU_LAMBDA {
      each<kSide>([&](int r) MBU_LAMBDA {
        const int32_t* count = counts + (r * kSide + p) * kTileChannels;
        y[r] = fused(to_floats(load(count), load(count + 16)), -2.0f, nnz[r]);  // whole numbers: exact
      });
    };
    if (finish_alike<kSide>(t, first, kSide, tile, dots_of)) return;
  }
  const bool whole = t.channels - tile * kTileChannels >= kTileChannels;
  for (int64_t row = 0; row < block.rows; ++row) {
    for (int64_t column = 0; column < block.columns; ++column) {
      const int64_t pixel = block.pixel + row * t.row_pixels + column;
      const int32_t* count = counts + (row * kSide + column) * kTileChannels;
      const __m512i low = load(count), high = load(count + 16);
      whole ? finish_floats<true>(t, pixel, tile, low, high)
            : finish_floats<false>(t, pixel, tile, low, high);
    }
  }
}

// Whether the limits of finish_same serve every plane of the tile.
bool keeps_bits(const Conv2dTile& t, int64_t tile) {
  for (int64_t plane = 0; plane < t.planes; ++plane)
    if (t.flip[tile + plane * t.out_words]) return false;
  return true;
}

void finish_blocks(const Conv2dTile& t, const Block* block, int64_t count, int64_t tile,
                   const int32_t* limits, const int32_t* counts) {
  alignas(64) int32_t whole[kSide * kSide * kTileChannels];
  const bool straight = t.bits && keeps_bits(t, tile);
  for (const Block* end = block + count; block != end; ++block, counts += kTileChannels) {
    if (straight && block->same) {
      finish_same(t, *block, tile, limits, counts);
      continue;
    }
    store_counts(counts, whole);
    if (t.bits)
      finish_bits(t, *block, tile, whole);
    else
      finish_floats(t, *block, tile, whole);
  }
}

}  // namespace
}  // namespace mbu
