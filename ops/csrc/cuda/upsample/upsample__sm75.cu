// Nearest upsampling of packed activations; a thread has 4 or 1 words of an output pixel.
#include "cuda/arithmetic.h"

namespace mbu::cuda {

template <int kVector>
MBU_DEVICE void upsample(const UpsampleParams& p) {
  const int32_t item = flat_index();
  if (item >= p.items) return;
  const Quotient at = divide_by(item, p.by_vectors);
  const Place px = place_of(at.quotient, p.by_width, p.by_height);
  const Word* from = p.input + px.n * p.stride_n + quotient_of(px.y, p.factor_h) * p.stride_h +
                     quotient_of(px.x, p.factor_w) * p.stride_w + at.remainder * kVector;
  *reinterpret_cast<Words<kVector>*>(p.output + int64_t{item} * kVector) =
      *reinterpret_cast<const Words<kVector>*>(from);
}

MBU_KERNEL void __launch_bounds__(kFlatThreads) upsample_v4__sm75(const __grid_constant__ UpsampleParams p) {
  upsample<4>(p);
}
MBU_KERNEL void __launch_bounds__(kFlatThreads) upsample_v1__sm75(const __grid_constant__ UpsampleParams p) {
  upsample<1>(p);
}

}  // namespace mbu::cuda
