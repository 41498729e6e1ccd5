// The first convolution of a network, float, with the threshold behind it. A warp has one output word of a
// few pixels: its lanes are 32 output channels, so weights are read side by side and the image by broadcast,
// and each weight read serves all of the pixels.
#include "cuda/arithmetic.h"

namespace mbu::cuda {

// Room for as many registers as it needs to keep none in memory.
MBU_KERNEL void __launch_bounds__(kFlatThreads, 4) stem__sm75(const __grid_constant__ StemParams p) {
  const int lane = thread_index() % kWarpLanes;
  const int32_t item = flat_index() / kWarpLanes;
  if (item >= p.items) return;
  const Quotient at = divide_by(item, p.by_words);
  const int32_t word = at.remainder, channel = word * 32 + lane, first = at.quotient * kStemPixels;
  const bool live = channel < p.out_channels;
  float sum[kStemPixels] = {};
  int32_t y[kStemPixels], x[kStemPixels];
  int64_t image[kStemPixels];
#pragma unroll
  for (int i = 0; i < kStemPixels; ++i) {
    const Place px = place_of(first + i < p.pixels ? first + i : first, p.by_width, p.by_height);
    y[i] = px.y * p.stride_y - p.padding_h;
    x[i] = px.x * p.stride_x - p.padding_w;
    image[i] = px.n * p.stride_n;
  }
  const float* weight = p.weight + (live ? channel : 0);
  for (int32_t c = 0; c < p.channels; ++c)
    for (int32_t ky = 0; ky < p.kernel_h; ++ky)
      for (int32_t kx = 0; kx < p.kernel_w; ++kx, weight += p.out_channels) {
        const float factor = *weight;
#pragma unroll
        for (int i = 0; i < kStemPixels; ++i) {
          const int32_t iy = y[i] + ky * p.dilation_h, ix = x[i] + kx * p.dilation_w;
          if (outside(iy, p.height) || outside(ix, p.width)) continue;
          const int64_t from = image[i] + c * p.stride_c + iy * p.stride_h + ix * p.stride_w;
          sum[i] = multiply_add(load_float(p.input, from, p.kind), factor, sum[i]);
        }
      }
  for (int32_t plane = 0; plane < p.planes; ++plane) {
    const float limit = live ? p.threshold[plane * p.out_channels + channel] : 0.0f;
    const Word flip = p.flip[plane * p.words + word] & valid_bits(word, p.out_channels);
#pragma unroll
    for (int i = 0; i < kStemPixels; ++i) {
      const Word bits = ballot(live && sum[i] >= limit);
      if (lane == 0 && first + i < p.pixels)
        p.bits[(int64_t{first + i} * p.planes + plane) * p.words + word] = bits ^ flip;
    }
  }
}

}  // namespace mbu::cuda
