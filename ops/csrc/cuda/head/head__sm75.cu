// The last, 1x1, convolution: float weights on bits, where a bit only gives the weight's sign. A thread has a
// pixel and a few classes at a time, so that a pixel's words are read seldom and weights by broadcast.
#include "cuda/arithmetic.h"

namespace mbu::cuda {

constexpr int kClassesAtOnce = 4;

MBU_KERNEL void __launch_bounds__(kFlatThreads) head__sm75(const __grid_constant__ HeadParams p) {
  const int32_t pixel = flat_index();
  if (pixel >= p.items) return;
  const Place px = place_of(pixel, p.by_width, p.by_height);
  const Word* words = p.input + px.n * p.stride_n + px.y * p.stride_h + px.x * p.stride_w;
  for (int32_t first = 0; first < p.classes; first += kClassesAtOnce) {
    float sum[kClassesAtOnce];
#pragma unroll
    for (int k = 0; k < kClassesAtOnce; ++k)
      sum[k] = p.bias && first + k < p.classes ? p.bias[first + k] : 0.0f;
    for (int32_t channel = 0; channel < p.channels; ++channel) {
      const Word minus = ~(words[channel / 32] >> (channel % 32)) << 31;  // the sign of a float
#pragma unroll
      for (int k = 0; k < kClassesAtOnce; ++k)
        if (first + k < p.classes) {
          const float weight = p.weight[int64_t{first + k} * p.channels + channel];
          sum[k] = add(sum[k], bits_float(float_bits(weight) ^ minus));
        }
    }
#pragma unroll
    for (int k = 0; k < kClassesAtOnce; ++k)
      if (first + k < p.classes)
        store_float(p.output, int64_t{pixel} * p.classes + first + k, p.kind, sum[k]);
  }
}

}  // namespace mbu::cuda
