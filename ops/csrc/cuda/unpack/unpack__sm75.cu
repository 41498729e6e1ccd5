// Bits to floats: one thread per value, channels side by side.
#include "cuda/arithmetic.h"

namespace mbu::cuda {

MBU_KERNEL void __launch_bounds__(kFlatThreads) unpack__sm75(const __grid_constant__ UnpackParams p) {
  const int32_t item = flat_index();
  if (item >= p.items) return;
  const Quotient at = divide_by(item, p.by_channels);
  const Place px = place_of(at.quotient, p.by_width, p.by_height);
  const int32_t channel = at.remainder;
  const Word word = p.input[px.n * p.stride_n + px.y * p.stride_h + px.x * p.stride_w + channel / 32];
  p.output[item] = word >> (channel % 32) & 1 ? 1.0f : -1.0f;
}

}  // namespace mbu::cuda
