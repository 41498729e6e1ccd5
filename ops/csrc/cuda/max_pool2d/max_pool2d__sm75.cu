// Max pooling of +-1 is the OR of the window; a thread has 4 or 1 words of an output pixel.
#include "cuda/arithmetic.h"

namespace mbu::cuda {

template <int kVector>
MBU_DEVICE void max_pool2d(const MaxPool2dParams& p) {
  const int32_t item = flat_index();
  if (item >= p.items) return;
  const Quotient at = divide_by(item, p.by_vectors);
  const Place px = place_of(at.quotient, p.by_width, p.by_height);
  const Word* image = p.input + px.n * p.stride_n + at.remainder * kVector;
  Words<kVector> any = {};
  for (int32_t i = 0; i < p.kernel_h; ++i) {
    const int32_t y = px.y * p.stride_y - p.padding_h + i * p.dilation_h;
    for (int32_t j = 0; j < p.kernel_w; ++j) {
      const int32_t x = px.x * p.stride_x - p.padding_w + j * p.dilation_w;
      if (outside(y, p.height) || outside(x, p.width)) continue;
      const auto words = *reinterpret_cast<const Words<kVector>*>(image + y * p.stride_h + x * p.stride_w);
#pragma unroll
      for (int k = 0; k < kVector; ++k) any.word[k] |= words.word[k];
    }
  }
  *reinterpret_cast<Words<kVector>*>(p.output + int64_t{item} * kVector) = any;
}

MBU_KERNEL void __launch_bounds__(kFlatThreads)
    max_pool2d_v4__sm75(const __grid_constant__ MaxPool2dParams p) {
  max_pool2d<4>(p);
}
// Room for as many registers as sm_86 needs to keep none in memory.
MBU_KERNEL void __launch_bounds__(kFlatThreads, 4)
    max_pool2d_v1__sm75(const __grid_constant__ MaxPool2dParams p) {
  max_pool2d<1>(p);
}

}  // namespace mbu::cuda
