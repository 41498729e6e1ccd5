// Launches of the kernels that run over a flat list: fills the items and divisors of a struct whose pointers,
// strides and sizes are set. Each returns the number of blocks along x, or 0 where the items do not fit 31
// bits (or there are none).
#pragma once
#include <cstdint>

#include "cuda/params.h"

namespace mbu::cuda {

// The output image.
struct ImageSize {
  int64_t batch, height, width;
};

uint32_t plan_pack(const ImageSize& image, PackParams& params);
uint32_t plan_unpack(const ImageSize& image, UnpackParams& params);
uint32_t plan_join_bits(const ImageSize& image, int64_t words, JoinBitsParams& params);
// `words` of a pixel, read `vector` (4 or 1) at a time; 4 needs 16-byte addresses and strides.
uint32_t plan_max_pool2d(const ImageSize& output, int64_t words, int vector, MaxPool2dParams& params);
uint32_t plan_stem(const ImageSize& output, StemParams& params);

}  // namespace mbu::cuda
