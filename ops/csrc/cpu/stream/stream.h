// The float residual stream: what follows a convolution whose result is needed as float. The convolution
// leaves the dot products of some rows in cache, these functions finish them:
//
//   y = dot, then for every step  y = fma(y, affine[step, 0, c], affine[step, 1, c])
//   y = y + residual;  y = max(y, 0) with relu;  y rounded once where it is stored;  bits = (y >= threshold)
//
// The steps are those of the trained network (scale, batch norm), rounded as there, in float32.
#pragma once
#include <cstdint>

#include "mbu/params.h"

namespace mbu {

struct Conv2dTile;
struct CpuKernel;

// Consecutive channels of one residual tensor that meet consecutive channels of the layer, in one row.
struct ResidualRun {
  const void* data;  // first channel of the source pixel of output column 0
  FloatType type;    // any but f16
  int64_t stride_c, stride_h, stride_w;
  int64_t channel, channels;  // of the row
  bool first;                 // starts the sum of its channels; others add to it
};

// sum[pixel, channel] = (sum of runs) / divisor
struct ResidualRow {
  const ResidualRun* run;
  int64_t runs;
  int64_t channels;
  int64_t pixels, column, column_step;  // output columns
  int64_t pool, upsample;
  float divisor;
  float* sum;  // [pixels, sum_stride]
  int64_t sum_stride;

  // Of output column number i; for a pooled residual, the first column of the window.
  int64_t source_column(int64_t i) const {
    const int64_t output = column + i * column_step;
    return (upsample == 1 ? output : output / upsample) * pool;
  }
};

struct StreamRow {
  const float* dots;  // [pixels, dots_stride]
  int64_t dots_stride;
  const void* residual;  // [pixels, residual_stride] or null
  FloatType residual_type;
  int64_t residual_stride;
  int64_t pixels, channels;
  const float* affine;  // [steps, 2, affine_stride], from the tile's first channel on
  int64_t steps, affine_stride;
  bool relu;
  void* output;  // [pixels, output_stride]
  FloatType type;
  int64_t output_stride;
};

// output[pixel, k] = bias[k] + sum over the channels of input[pixel, channel] * weight[k, channel]
struct HeadRow {
  const float* input;  // [pixels, channels]
  int64_t pixels, channels;
  const float* weight;      // [classes, channels]
  const float* transposed;  // [channels, classes_padded] where there are more than kDotClasses, or null
  int64_t classes, classes_padded;
  const float* bias;  // [classes_padded]
  float* output;      // [pixels, output_stride]
  int64_t output_stride;
};

// Up to this many classes each is one dot product; with more, lanes are classes.
constexpr int64_t kDotClasses = 4;

// Where a band lies: rows and columns of one image and one pass (see conv2d.cpp).
struct StreamBand {
  int64_t n, rows, columns;
  int64_t row, row_step, column, column_step;  // of the output
  const int64_t* bits_target;                  // [pixels] words from its first pixel's bits, if there are any
};

// Runs the band's tiles and finishes them. `tile` describes the whole band; its outputs are set here.
void stream_band(const Conv2dParams& params, const CpuKernel& kernel, const Conv2dTile& tile,
                 const StreamBand& band);

// The 1x1 convolution behind finished rows, `row` being the first of them in the band.
void project_rows(const Conv2dParams& params, const CpuKernel& kernel, const StreamBand& band, int64_t row,
                  int64_t rows, const float* finished);

}  // namespace mbu
