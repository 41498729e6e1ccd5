// Bits to the bytes that winograd_4x4.h multiplies; its equations are there, as is what a class V brings.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/unroll.h"

namespace mbu {
namespace {

// Rows and columns of a block of outputs, of the kernel, of the inputs that they meet and of products.
constexpr int kSide = 4, kTaps = 3, kPoints = kSide + kTaps - 1;
constexpr int kProducts = kPoints * kPoints;

template <class V>
MBU_INLINE typename V::Reg twice(typename V::Reg x) {
  return V::add8(x, x);
}

// A column of a row of blocks, combined along y: [6][channels of a register]. d[r] has the bits of row r.
template <class V>
MBU_INLINE void combine_rows(const typename V::Mask* d, int8_t* to) {
  const auto times = [&](int r, int value) MBU_LAMBDA { return V::times(d[r], value); };
  const auto plus = [&](typename V::Reg x, int r, int value) MBU_LAMBDA { return V::plus(x, d[r], value); };
  const auto even = plus(times(2, 4), 4, -1), odd = plus(times(1, 4), 3, -1);
  const auto near = plus(times(4, 1), 2, -1), far = plus(times(3, 2), 1, -2);
  const typename V::Reg n[kPoints] = {plus(plus(times(0, 4), 2, -5), 4, 1),
                                      V::add8(even, odd),
                                      V::sub8(even, odd),
                                      V::add8(near, far),
                                      V::sub8(near, far),
                                      plus(plus(times(1, 8), 3, -10), 5, 2)};
  each<kPoints>([&](int i) MBU_LAMBDA { V::store(to + i * V::kBytes, n[i]); });
}

// Six columns of one of these rows, combined along x, to the bytes of a block.
template <class V>
MBU_INLINE void combine_columns(const int8_t* from, typename V::Reg* n) {
  const auto d = [&](int c) MBU_LAMBDA { return V::load(from + c * kPoints * V::kBytes); };
  const auto offset = [](typename V::Reg x) MBU_LAMBDA {
    if constexpr (V::kOffset == 0) return x;
    return V::add8(x, V::bytes(V::kOffset));
  };
  const auto d1 = d(1), d2 = d(2), d3 = d(3), d4 = d(4);
  const auto near = offset(V::sub8(d4, d2)), far = twice<V>(V::sub8(d3, d1));
  const auto even = offset(V::sub8(twice<V>(twice<V>(d2)), d4)), odd = V::sub8(twice<V>(twice<V>(d1)), d3);
  n[0] = V::add8(twice<V>(twice<V>(V::sub8(d(0), d2))), near);
  n[1] = V::add8(even, odd);
  n[2] = V::sub8(even, odd);
  n[3] = V::add8(near, far);
  n[4] = V::sub8(near, far);
  n[5] = offset(V::sub8(V::sub8(d(5), d3), twice<V>(far)));
}

// `kWords` words, a register's or the last, of the pixels of one row of `blocks` blocks, from picture row
// `row` and `column` on. to(block) is where the bytes of its first product go, the next product's `step`
// bytes behind; `columns` has room for what combine_rows makes.
template <class V, int kWords, class To>
void expand_blocks(const Conv2dPicture& in, const Word* from, int64_t row, int64_t column, int64_t blocks,
                   int8_t* columns, const To& to) {
  const Word* rows[kPoints];
  for (int64_t r = 0; r < kPoints; ++r)  // below the last row that outputs meet any row will do
    rows[r] = from + std::min(row + r, in.rows - 1) * in.row_stride;
  for (int64_t c = 0; c < kSide * blocks + kTaps - 1; ++c) {
    const int64_t pixel = std::min(column + c, in.columns - 1) * in.pixel_stride;
    typename V::Mask d[kPoints];
    each<kPoints>([&](int r) MBU_LAMBDA { d[r] = V::template bits<kWords>(rows[r] + pixel); });
    combine_rows<V>(d, columns + c * kPoints * V::kBytes);
  }
  for (int64_t block = 0; block < blocks; ++block) {
    const int8_t* at = columns + block * kSide * kPoints * V::kBytes;
    const auto [bytes, step] = to(block);
    for (int64_t i = 0; i < kPoints; ++i) {
      typename V::Reg n[kPoints];
      combine_columns<V>(at + i * V::kBytes, n);
      each<kPoints>(
          [&](int j) MBU_LAMBDA { V::template store_words<kWords>(bytes + (i * kPoints + j) * step, n[j]); });
    }
  }
}

// Kernel rows to six combinations. mask[r], sign[r]: of kernel row r.
template <class V>
MBU_INLINE void combine_weights(const typename V::Mask* mask, const typename V::Mask* sign,
                                typename V::Reg* h) {
  const auto times = [&](int r, int value) MBU_LAMBDA { return V::weights(mask[r], sign[r], value); };
  const auto four1 = times(1, 4), four2 = times(2, 4), outer = V::add8(times(0, 4), four2);
  const auto far = V::add8(times(0, 1), four2), two1 = times(1, 2);
  h[0] = times(0, 6);
  h[1] = V::add8(outer, four1);
  h[2] = V::sub8(outer, four1);
  h[3] = V::add8(far, two1);
  h[4] = V::sub8(far, two1);
  h[5] = times(2, 12);
}

template <class V>
MBU_INLINE void combine_weight_columns(typename V::Reg g0, typename V::Reg g1, typename V::Reg g2,
                                       typename V::Reg* h) {
  const auto two0 = twice<V>(g0), two1 = twice<V>(g1), four2 = twice<V>(twice<V>(g2));
  const auto outer = V::add8(g0, g2), far = V::add8(g0, four2);
  h[0] = V::add8(twice<V>(two0), two0);
  h[1] = twice<V>(V::add8(outer, g1));
  h[2] = twice<V>(V::sub8(outer, g1));
  h[3] = V::add8(far, two1);
  h[4] = V::sub8(far, two1);
  h[5] = twice<V>(four2);
}

// Bytes from one product's weights to the next's: a register more than they are, or all would share a few
// sets of the first-level cache.
template <class V>
constexpr int64_t weight_stride(int64_t words) {
  return words * kWordBits * kTileChannels + V::kBytes;
}

// The bytes of a tile's weights: [product][part: 2 registers of outputs][step: 4 inputs][outputs of the
// part][4].
template <class V>
void expand_weights(const Conv2dTile& t, int64_t tile, int8_t* to) {
  const Conv2dPicture& in = t.picture;
  const Word* weight = t.weight + tile * t.weight_stride;
  const int64_t part_bytes = 2 * V::kBytes * in.words * (kWordBits / 4);
  for (int64_t word = 0; word < in.words; ++word) {
    for (int64_t reg = 0; reg < kTileChannels / V::kLanes; ++reg) {
      for (int64_t byte = 0; byte < 4; ++byte) {  // of a word
        typename V::Reg sign[kTaps * kTaps], mask[kTaps * kTaps];
        each<kTaps * kTaps>([&](int i) MBU_LAMBDA {
          const Word* from =
              weight + (in.tap[i].kernel * in.words + word) * 2 * kTileChannels + reg * V::kLanes;
          sign[i] = V::spread(V::load(from), byte);
          mask[i] = V::spread(V::load(from + kTileChannels), byte);
        });
        for (int64_t nibble = 0; nibble < 2; ++nibble) {
          const auto bit = V::ints(nibble ? static_cast<int>(0x80402010) : 0x08040201);
          typename V::Reg h[kTaps][kPoints];
          each<kTaps>([&](int column) MBU_LAMBDA {
            typename V::Mask masks[kTaps], signs[kTaps];
            each<kTaps>([&](int r) MBU_LAMBDA {
              masks[r] = V::test(mask[r * kTaps + column], bit);
              signs[r] = V::test(sign[r * kTaps + column], bit);
            });
            combine_weights<V>(masks, signs, h[column]);
          });
          const int64_t step = word * (kWordBits / 4) + 2 * byte + nibble;
          int8_t* out = to + reg / 2 * part_bytes + (2 * step + reg % 2) * V::kBytes;
          each<kPoints>([&](int i) MBU_LAMBDA {
            typename V::Reg product[kPoints];
            combine_weight_columns<V>(h[0][i], h[1][i], h[2][i], product);
            each<kPoints>([&](int j) MBU_LAMBDA {
              V::store(out + (i * kPoints + j) * weight_stride<V>(in.words), product[j]);
            });
          });
        }
      }
    }
  }
}

}  // namespace
}  // namespace mbu
