// The stem: a float convolution of few input channels whose result leaves as bits, as a float stream, or
// both. What follows it is that of cpu/stream/stream.h, without a residual:
//
//   y = conv(x), then for every step  y = fma(y, affine[step, 0, c], affine[step, 1, c])
//   y = max(y, 0) with relu;  y rounded once where bfloat16 is stored;  bits = (y >= threshold) ^ flip
//
// Products are summed in the order of the weight, kernel row by kernel row, column by column, channel by
// channel, each with one fused multiply-add: every kernel gives the same bits. ATen sums in an order of its
// own, so its results lie within the rounding of such a sum, not on the same bit.
#pragma once
#include <cstdint>

#include "mbu/params.h"

namespace mbu {

// One row of output pixels times the 32 channels of one weight tile.
struct StemTile {
  const float* input;  // of the first pixel; readable as if `pixels` were a multiple of kStemPixels
  int64_t pixels, pixel_step;
  const int64_t* offset;  // [products] from a pixel's input to the value of each product
  int64_t products;
  const float* weight;  // [products, 32]
  const float* affine;  // [steps, 2, padded] from the tile's first channel on
  int64_t steps, padded;
  bool relu;
  void* output;      // [pixels, channels] from the tile's first channel on, or null
  FloatType type;    // of the output: any but f16
  bool past_caches;  // the output is too large to be found there later; pixels start lines
  int64_t channels, tile_channels;
  Word* bits;  // [pixels, planes, words] from the tile's word on, or null
  int64_t planes, words;
  // [planes, padded] from the tile's first channel on, as they apply before y is rounded; no bit above the
  // last channel
  const float* threshold;
  const Word* flip;  // [planes, words] from the tile's word on
};

// The most pixels that a kernel takes at a time, and the largest step between them that it knows by heart.
constexpr int64_t kStemPixels = 12, kMostPixelStep = 3;

}  // namespace mbu
