// From a layer to a launch: what a kernel is given, how many blocks run, and which layers no kernel takes.
#pragma once
#include <cstdint>

#include "cuda/params.h"
#include "cuda/weight.h"
#include "mbu/types.h"

namespace mbu::cuda {

struct Grid {
  uint32_t x, y, z;
};

// The geometry of a convolution; pointers and the epilogue are filled in by the caller.
struct Layer {
  int64_t batch, height, width;  // of the input, after upsampling
  int64_t words[2];              // of a pixel of each source; the second may be 0
  int64_t upsample[2];           // each pixel of a source counts for upsample x upsample pixels
  int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
  int64_t out_height, out_width, out_channels;
  bool transposed, zero_padding;
  bool binary;  // of the weight (cuda/weight.h)
};

Divide divide_by(int64_t divisor);

// Fills everything of `params` that follows from the layer and the weight's layout, its pointers included:
// `weight` is the device address of what lay_out_weight made. Returns nullptr, or the reason why no kernel
// takes this layer.
const char* plan_conv2d(const Layer& layer, DeviceLayout layout, const int32_t* weight, Conv2dParams& params);

// Words that the layer's kernel may read at a time: 4, 2 or 1, the vN of its name. `aligned_words` is what
// the addresses and strides of all sources are a multiple of.
int vector_words(const Layer& layer, int64_t aligned_words);

// Blocks of a kernel whose tile is tile_pixels x tile_channels.
Grid conv2d_grid(const Conv2dParams& params, int tile_pixels, int tile_channels);

}  // namespace mbu::cuda
