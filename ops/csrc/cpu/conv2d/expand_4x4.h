// Bits to the bytes that conv2d_192x32__avx512vnni.cpp multiplies; its equations are there.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <algorithm>

#include "cpu/conv2d/finish_avx512.h"

namespace mbu {
namespace {

// Rows and columns of a block of outputs, of the kernel, of the inputs that they meet and of products.
constexpr int kSide = 4, kTaps = 3, kPoints = kSide + kTaps - 1;
constexpr int kProducts = kPoints * kPoints;
constexpr int64_t kRowBytes = 64;  // of a register: inputs of a pixel, or 4 inputs x 16 outputs
// Added to inputs, which the processor takes without a sign.
constexpr int kOffset = 128;

MBU_INLINE __m512i bytes_of(int value) {
  return _mm512_set1_epi8(static_cast<char>(value));
}

// The columns of a row of blocks, combined along y: [column][6][64 channels]. d[r] has the bits of row r.
MBU_INLINE void combine_rows(const __mmask64* d, int8_t* to) {
  const auto times = [&](int r, int value)
                         MBU_LAMBDA { return _mm512_maskz_mov_epi8(d[r], bytes_of(value)); };
  const auto plus = [&](__m512i x, int r, int value)
                        MBU_LAMBDA { return _mm512_mask_add_epi8(x, d[r], x, bytes_of(value)); };
  const __m512i even = plus(times(2, 4), 4, -1), odd = plus(times(1, 4), 3, -1);
  const __m512i near = plus(times(4, 1), 2, -1), far = plus(times(3, 2), 1, -2);
  const __m512i n[kPoints] = {plus(plus(times(0, 4), 2, -5), 4, 1), _mm512_add_epi8(even, odd),
                              _mm512_sub_epi8(even, odd),           _mm512_add_epi8(near, far),
                              _mm512_sub_epi8(near, far),           plus(plus(times(1, 8), 3, -10), 5, 2)};
  each<kPoints>([&](int i) MBU_LAMBDA { _mm512_store_si512(to + i * kRowBytes, n[i]); });
}

// Six columns of one of these rows, combined along x, to the bytes of a block.
struct BlockBytes {
  __m512i n[kPoints];
};
MBU_INLINE BlockBytes combine_columns(const int8_t* from) {
  const auto d = [&](int c) MBU_LAMBDA { return _mm512_load_si512(from + c * kPoints * kRowBytes); };
  const auto twice = [](__m512i x) MBU_LAMBDA { return _mm512_add_epi8(x, x); };
  const __m512i d1 = d(1), d2 = d(2), d3 = d(3), d4 = d(4);
  const auto offset = [](__m512i x) MBU_LAMBDA { return _mm512_xor_si512(x, bytes_of(kOffset)); };
  const __m512i near = offset(_mm512_sub_epi8(d4, d2)), far = twice(_mm512_sub_epi8(d3, d1));
  const __m512i even = offset(_mm512_sub_epi8(twice(twice(d2)), d4)),
                odd = _mm512_sub_epi8(twice(twice(d1)), d3);
  return {{_mm512_add_epi8(twice(twice(_mm512_sub_epi8(d(0), d2))), near), _mm512_add_epi8(even, odd),
           _mm512_sub_epi8(even, odd), _mm512_add_epi8(near, far), _mm512_sub_epi8(near, far),
           offset(_mm512_sub_epi8(_mm512_sub_epi8(d(5), d3), twice(far)))}};
}

// `kWords` words of the pixels of one row of `blocks` blocks, from picture row `row` and `column` on.
// to(block) is where the bytes of its first product go, the next product's `step` bytes behind; `columns` has
// room for combine_rows.
template <int kWords, class To>
void expand_blocks(const Conv2dPicture& in, const Word* from, int64_t row, int64_t column, int64_t blocks,
                   int8_t* columns, const To& to) {
  const Word* rows[kPoints];
  for (int64_t r = 0; r < kPoints; ++r)  // below the last row that outputs meet any row will do
    rows[r] = from + std::min(row + r, in.rows - 1) * in.row_stride;
  const int64_t count = kSide * blocks + kTaps - 1;
  for (int64_t c = 0; c < count; ++c) {
    const int64_t pixel = std::min(column + c, in.columns - 1) * in.pixel_stride;
    __mmask64 d[kPoints];
    each<kPoints>([&](int r) MBU_LAMBDA {
      uint64_t bits = 0;
      __builtin_memcpy(&bits, rows[r] + pixel, kWords * sizeof(Word));
      d[r] = _cvtu64_mask64(bits);
    });
    combine_rows(d, columns + c * kPoints * kRowBytes);
  }
  for (int64_t block = 0; block < blocks; ++block) {
    const int8_t* at = columns + block * kSide * kPoints * kRowBytes;
    const auto [bytes, step] = to(block);
    for (int64_t i = 0; i < kPoints; ++i) {
      const BlockBytes combined = combine_columns(at + i * kRowBytes);
      each<kPoints>([&](int j) MBU_LAMBDA {
        const __m512i x = combined.n[j];
        uint8_t* out = bytes + (i * kPoints + j) * step;
        if constexpr (kWords == 2)
          _mm512_storeu_si512(out, x);
        else
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(x));
      });
    }
  }
}

// Kernel rows to six combinations, in bytes: 16 outputs x 4 inputs of a word. mask[r], sign[r]: of kernel row
// r.
MBU_INLINE void combine_weights(const __mmask64* mask, const __mmask64* sign, __m512i* h) {
  // value * -w
  const auto times = [&](int r, int value) MBU_LAMBDA {
    return _mm512_mask_mov_epi8(_mm512_maskz_mov_epi8(mask[r], bytes_of(value)), sign[r], bytes_of(-value));
  };
  const __m512i four2 = times(2, 4), outer = _mm512_add_epi8(times(0, 4), four2), four1 = times(1, 4);
  const __m512i far = _mm512_add_epi8(times(0, 1), four2), two1 = times(1, 2);
  h[0] = times(0, 6);
  h[1] = _mm512_add_epi8(outer, four1);
  h[2] = _mm512_sub_epi8(outer, four1);
  h[3] = _mm512_add_epi8(far, two1);
  h[4] = _mm512_sub_epi8(far, two1);
  h[5] = times(2, 12);
}

MBU_INLINE void combine_weight_columns(__m512i g0, __m512i g1, __m512i g2, __m512i* h) {
  const auto twice = [](__m512i x) MBU_LAMBDA { return _mm512_add_epi8(x, x); };
  const __m512i two0 = twice(g0), two1 = twice(g1), four2 = twice(twice(g2));
  const __m512i outer = _mm512_add_epi8(g0, g2), far = _mm512_add_epi8(g0, four2);
  h[0] = _mm512_add_epi8(twice(two0), two0);
  h[1] = twice(_mm512_add_epi8(outer, g1));
  h[2] = twice(_mm512_sub_epi8(outer, g1));
  h[3] = _mm512_add_epi8(far, two1);
  h[4] = _mm512_sub_epi8(far, two1);
  h[5] = twice(four2);
}

// Bytes from one product's weights to the next's: a line more than they are, or all would share a few sets of
// the first-level cache.
constexpr int64_t weight_stride(int64_t words) {
  return words * kWordBits * kTileChannels + kRowBytes;
}

// The bytes of a tile's weights: [product][step: 4 inputs][32 outputs][4].
void expand_weights(const Conv2dTile& t, int64_t tile, int8_t* to) {
  const Conv2dPicture& in = t.picture;
  const Word* weight = t.weight + tile * t.weight_stride;
  const int64_t product_bytes = weight_stride(in.words);
  for (int64_t word = 0; word < in.words; ++word) {
    for (int64_t half = 0; half < 2; ++half) {
      for (int64_t part = 0; part < 4; ++part) {  // bytes of a word
        const __m512i spread = _mm512_add_epi8(_mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0),
                                               bytes_of(static_cast<int>(part)));
        __m512i sign[kTaps * kTaps], mask[kTaps * kTaps];
        each<kTaps * kTaps>([&](int i) MBU_LAMBDA {
          const Word* from = weight + (in.tap[i].kernel * in.words + word) * 2 * kTileChannels + half * 16;
          sign[i] = _mm512_shuffle_epi8(load(from), spread);
          mask[i] = _mm512_shuffle_epi8(load(from + kTileChannels), spread);
        });
        for (int64_t nibble = 0; nibble < 2; ++nibble) {
          const __m512i bit = _mm512_set1_epi32(nibble ? static_cast<int>(0x80402010) : 0x08040201);
          __m512i h[kTaps][kPoints];
          each<kTaps>([&](int column) MBU_LAMBDA {
            __mmask64 masks[kTaps], signs[kTaps];
            each<kTaps>([&](int r) MBU_LAMBDA {
              masks[r] = _mm512_test_epi8_mask(mask[r * kTaps + column], bit);
              signs[r] = _mm512_test_epi8_mask(sign[r * kTaps + column], bit);
            });
            combine_weights(masks, signs, h[column]);
          });
          int8_t* out = to + (((word * 4 + part) * 2 + nibble) * 2 + half) * kRowBytes;
          each<kPoints>([&](int i) MBU_LAMBDA {
            __m512i product[kPoints];
            combine_weight_columns(h[0][i], h[1][i], h[2][i], product);
            each<kPoints>([&](int j) MBU_LAMBDA {
              _mm512_store_si512(out + (i * kPoints + j) * product_bytes, product[j]);
            });
          });
        }
      }
    }
  }
}

}  // namespace
}  // namespace mbu
