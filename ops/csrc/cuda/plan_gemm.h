// From a matrix product of packed rows to a launch of a kernel that csrc/cuda/generate.py writes.
#pragma once
#include <cstdint>

#include "cuda/params.h"
#include "cuda/plan.h"
#include "cuda/weight.h"

namespace mbu::cuda {

struct Product {
  int64_t rows, words, stride;  // stride: words from one row to the next
  int64_t out_channels;
  bool binary;  // of the weight (cuda/weight.h)
};

// Fills everything of `params` but the pointers of input and results: `weight` is the device address of what
// lay_out_weight made for one tap. Returns nullptr, or the reason why no such kernel takes this product.
// Addresses of rows must be multiples of 16 bytes.
const char* plan_gemm(const Product& product, DeviceLayout layout, const int32_t* weight, GemmParams& params);

Grid gemm_grid(const GemmParams& params, int tile_rows, int tile_channels);

}  // namespace mbu::cuda
