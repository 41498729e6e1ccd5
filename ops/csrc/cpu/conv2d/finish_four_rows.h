// The epilogue of conv2d_128x32__amx_int8.cpp: what its six products make of four output rows.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include "cpu/conv2d/amx_tiles.h"

namespace mbu {
namespace {

constexpr int kRows = 4, kTaps = 3, kProducts = kRows + kTaps - 1;
constexpr int kFactor = 24;
constexpr int64_t kProductCounts = 2 * kTileCounts;  // [2 tiles][16 pixels][32 channels]
constexpr int64_t kBlockCounts = kProducts * kProductCounts;

// Up to 16 columns of up to four output rows.
struct RowsTile {
  int64_t start;  // cells to the first
  int64_t pixel;  // index of the first
  int rows, columns;
  // Columns whose pixels share their row's border class; none unless there are four rows.
  int same_begin, same_end;
};

// 24 times the counts of four rows, of 16 channels of a pixel.
struct RowsCounts {
  __m512i y[kRows];
};

MBU_INLINE RowsCounts combine(const int32_t* counts) {
  const auto m = [&](int k) MBU_LAMBDA { return load(counts + k * kProductCounts); };
  const __m512i m1 = m(1), m2 = m(2), m3 = m(3), m4 = m(4);
  const __m512i sum = _mm512_add_epi32(m1, m2), difference = _mm512_sub_epi32(m1, m2);
  const __m512i sums = _mm512_add_epi32(m3, m4), differences = _mm512_sub_epi32(m3, m4);
  return {{_mm512_add_epi32(m(0), _mm512_add_epi32(sum, sums)),
           _mm512_add_epi32(difference, _mm512_add_epi32(differences, differences)),
           _mm512_add_epi32(sum, _mm512_slli_epi32(sums, 2)),
           _mm512_add_epi32(_mm512_add_epi32(difference, m(5)), _mm512_slli_epi32(differences, 3))}};
}

// A multiple of 24 through 24: by 8, then times the inverse of 3 modulo 2^32.
MBU_INLINE __m512i divide(__m512i y) {
  return _mm512_mullo_epi32(_mm512_srai_epi32(y, 3), _mm512_set1_epi32(static_cast<int>(0xaaaaaaab)));
}

// Columns [begin, end), whatever their border classes.
void finish_any(const Conv2dTile& t, const RowsTile& pixels, int begin, int end, int64_t word, Word flip,
                const int32_t* limits, const int32_t* counts) {
  for (int p = begin; p < end; ++p) {
    const RowsCounts low = combine(counts + p * kTileChannels),
                     high = combine(counts + p * kTileChannels + 16);
    each<kRows>([&](int r) MBU_LAMBDA {
      if (r >= pixels.rows) return;
      const int64_t pixel = pixels.pixel + r * t.row_pixels + p;
      const int32_t* limit = limits + t.border[pixel];
      const __mmask16 a = _mm512_cmple_epi32_mask(low.y[r], load(limit));
      const __mmask16 b = _mm512_cmple_epi32_mask(high.y[r], load(limit + 16));
      t.bits[t.target[pixel] + word] = _cvtmask32_u32(_mm512_kunpackw(b, a)) ^ flip;
    });
  }
}

// Columns whose pixels share their row's border class: limits stay in registers, masks go straight to memory.
MBU_INLINE void finish_same(const Conv2dTile& t, const RowsTile& pixels, int64_t word, Word flip,
                            const int32_t* limits, const int32_t* counts) {
  const int begin = pixels.same_begin, end = pixels.same_end;
  if (begin == end) return;  // there may be fewer than four rows
  for (int half = 0; half < 2; ++half) {
    __m512i limit[kRows];
    __mmask16* to[kRows];
    each<kRows>([&](int r) MBU_LAMBDA {
      const int64_t pixel = pixels.pixel + r * t.row_pixels + begin;
      limit[r] = load(limits + t.border[pixel] + half * 16);
      to[r] = reinterpret_cast<__mmask16*>(t.bits + t.target[pixel] + word) + half;
    });
    const int64_t step =
        end - begin < 2 ? 0 : 2 * (t.target[pixels.pixel + begin + 1] - t.target[pixels.pixel + begin]);
    const int32_t* from = counts + begin * kTileChannels + half * 16;
    for (int p = begin; p < end; ++p, from += kTileChannels) {
      const RowsCounts counted = combine(from);
      each<kRows>([&](int r) MBU_LAMBDA {
        _store_mask16(to[r], _mm512_cmple_epi32_mask(counted.y[r], limit[r]));
        to[r] += step;
      });
    }
  }
  if (flip == 0) return;
  for (int64_t r = 0; r < kRows; ++r)
    for (int p = begin; p < end; ++p) t.bits[t.target[pixels.pixel + r * t.row_pixels + p] + word] ^= flip;
}

void finish_bits(const Conv2dTile& t, const RowsTile& pixels, int64_t tile, const int32_t* limits,
                 const int32_t* counts) {
  limits += tile * kTileChannels;
  int64_t word = tile;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limits += t.channels_padded) {
    const Word flip = t.flip[word];
    finish_same(t, pixels, word, flip, limits, counts);
    finish_any(t, pixels, 0, pixels.same_begin, word, flip, limits, counts);
    finish_any(t, pixels, pixels.same_end, pixels.columns, word, flip, limits, counts);
  }
}

// Columns [begin, end), whatever their border classes.
template <bool kChannels>  // all 32
void finish_any(const Conv2dTile& t, const RowsTile& pixels, int begin, int end, int64_t tile,
                const int32_t* counts) {
  for (int p = begin; p < end; ++p) {
    const RowsCounts low = combine(counts + p * kTileChannels),
                     high = combine(counts + p * kTileChannels + 16);
    each<kRows>([&](int r) MBU_LAMBDA {
      if (r < pixels.rows)
        finish_floats<kChannels>(t, pixels.pixel + r * t.row_pixels + p, tile, divide(low.y[r]),
                                 divide(high.y[r]));
    });
  }
}

void finish_floats(const Conv2dTile& t, const RowsTile& pixels, int64_t tile, const int32_t* counts) {
  const auto any = [&](int begin, int end) {
    if (t.channels - tile * kTileChannels >= kTileChannels)
      finish_any<true>(t, pixels, begin, end, tile, counts);
    else
      finish_any<false>(t, pixels, begin, end, tile, counts);
  };
  const int begin = pixels.same_begin, end = pixels.same_end;
  const auto dots_of = [&](int p, const Floats* nnz, Floats* y) MBU_LAMBDA {
    const int32_t* from = counts + (begin + p) * kTileChannels;
    const RowsCounts first = combine(from), second = combine(from + 16);
    // The share is off by at most 1 in 2^25 and the multiple of 24 exact (kMostWords), so that the product
    // rounds to the true one, a whole number.
    each<kRows>([&](int r)
                    MBU_LAMBDA { y[r] = nnz[r] + to_floats(first.y[r], second.y[r]) * (-2.0f / kFactor); });
  };
  int64_t first[kRows];
  for (int r = 0; r < kRows; ++r) first[r] = pixels.pixel + r * t.row_pixels + begin;
  if (begin == end || !finish_alike<kRows>(t, first, end - begin, tile, dots_of))
    return any(0, pixels.columns);
  any(0, begin);
  any(end, pixels.columns);
}

// Of one or two tiles.
void finish_block(const Conv2dTile& t, const RowsTile* pixels, int64_t count, int64_t tile,
                  const int32_t* limits, const int32_t* counts) {
  for (const RowsTile* end = pixels + count; pixels != end; ++pixels, counts += kTileCounts) {
    if (t.bits)
      finish_bits(t, *pixels, tile, limits, counts);
    else
      finish_floats(t, *pixels, tile, counts);
  }
}

}  // namespace
}  // namespace mbu
