// The block of outputs that one thread block computes, and where its parts lie in shared memory.
#pragma once
#include "cuda/arithmetic.h"

namespace mbu::cuda {

// A stage of the pipeline holds 256 bits of K: 8 words of every row.
constexpr int kStageWords = 8;
constexpr int kRowBytes = 4 * kStageWords;

// kWarpsM x kWarpsN warps, each with kWarpPixels x 32 outputs: 32 channels are one word of packed output.
template <int kWarpsM_, int kWarpsN_, int kWarpPixels_>
struct Tile {
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kWarpPixels = kWarpPixels_;
  static constexpr int kWarpChannels = 32;
  static constexpr int kPixels = kWarpsM * kWarpPixels, kChannels = kWarpsN * kWarpChannels;
  static constexpr int kWarps = kWarpsM * kWarpsN, kThreads = kWarps * kWarpLanes;
  static constexpr int kRowParts = kWarpPixels / 16, kColumnParts = kWarpChannels / 8;
  // The float epilogue lays dot products out in shared memory; 8 words more than a row keep the rows of a
  // fragment in different banks.
  static constexpr int kSumsPitch = kChannels + 8;
  static constexpr int kSumsBytes = 4 * kPixels * kSumsPitch;
};

using Tile128x64 = Tile<2, 2, 64>;
using Tile64x64 = Tile<2, 2, 32>;
using Tile32x32 = Tile<2, 1, 16>;

template <class T>
using Accumulators = int32_t[T::kRowParts][T::kColumnParts][4];

// Byte offset of a word in rows of 8 words. The two halves of a row change places in every other group of
// four rows, so that the 8 rows of a matrix lie in different banks without padding.
MBU_DEVICE uint32_t row_offset(int row, int word) {
  return static_cast<uint32_t>(row * kRowBytes + (((word >> 2) ^ (row >> 2)) & 1) * 16 + (word & 3) * 4);
}

// One output pixel of a pass.
struct Pixel {
  int32_t n, y, x;  // in outputs of the phases
};

struct Pass {
  const AxisPhase &rows, &columns;
  int32_t phase_h, phase_w;
  int32_t pixels;  // of all images

  MBU_DEVICE Pixel pixel(int32_t index) const {
    const Quotient x = divide_by(index, columns.by_outputs), y = divide_by(x.quotient, rows.by_outputs);
    return {y.quotient, y.remainder, x.remainder};
  }
  // Index of the output pixel in the whole image batch.
  MBU_DEVICE int64_t output(const Conv2dParams& p, const Pixel& px) const {
    const int32_t y = px.y * p.out_step_h + phase_h, x = px.x * p.out_step_w + phase_w;
    return (int64_t{px.n} * p.out_height + y) * p.out_width + x;
  }
};

MBU_DEVICE Pass pass_of(const Conv2dParams& p, int index) {
  const int32_t h = index / p.phases_w, w = index - h * p.phases_w;
  const AxisPhase &rows = p.rows[h], &columns = p.columns[w];
  return {rows, columns, h, w, p.batch * rows.outputs * columns.outputs};
}

// Position of a K index: the tap, and the word within a pixel.
struct KPlace {
  int32_t row_tap, column_tap, word;
  bool inside;
};

MBU_DEVICE KPlace k_place(const Conv2dParams& p, const Pass& pass, int32_t k) {
  const Quotient tap = divide_by(k, p.by_words);
  const Quotient row = divide_by(tap.quotient, pass.columns.by_taps);
  return {row.quotient, row.remainder, tap.remainder, row.quotient < pass.rows.taps};
}

MBU_DEVICE int32_t kernel_tap(const Conv2dParams& p, const Pass& pass, int32_t row_tap, int32_t column_tap) {
  return (pass.rows.kernel + row_tap * pass.rows.kernel_step) * p.kernel_w + pass.columns.kernel +
         column_tap * pass.columns.kernel_step;
}

}  // namespace mbu::cuda
