// From accumulators to exact dot products.
//
// Taps outside the image were read as zero bits, which mean -1. Where the layer pads with exact zeros, a
// tap's weights were thus counted with a minus sign:
//
//   dot = scale * S + base + sum over the missing taps of (sum of the tap's weights)
//
// Only pixels at a border miss taps, so the sum is taken there and nowhere else.
#pragma once
#include "cuda/conv2d/tile.h"

namespace mbu::cuda {

// Input coordinate of the first tap of a pixel.
MBU_DEVICE int32_t first_row(const Conv2dParams& p, const Pass& pass, const Pixel& px) {
  return px.y * p.step_h + pass.rows.offset;
}
MBU_DEVICE int32_t first_column(const Conv2dParams& p, const Pass& pass, const Pixel& px) {
  return px.x * p.step_w + pass.columns.offset;
}

// Taps advance in equal steps, so a pixel misses none when it has its first and its last.
MBU_DEVICE bool misses_taps(const Conv2dParams& p, const Pass& pass, const Pixel& px) {
  const int32_t y = first_row(p, pass, px), x = first_column(p, pass, px);
  return outside(y, p.height) || outside(y + (pass.rows.taps - 1) * pass.rows.offset_step, p.height) ||
         outside(x, p.width) || outside(x + (pass.columns.taps - 1) * pass.columns.offset_step, p.width);
}

// Lane l of a warp holds rows l / 4 and l / 4 + 8 of every 16, and two neighbouring channels of every 8.
MBU_DEVICE int own_row(int part, int half) {
  return part * 16 + half * 8 + thread_index() % kWarpLanes / 4;
}
MBU_DEVICE int own_channel(int part) {
  return part * 8 + thread_index() % 4 * 2;
}

// sums become dot products; `channel` is the warp's first, `pixel` its first pixel's index in the pass.
template <class T>
MBU_DEVICE void finish_dots(const Conv2dParams& p, const Pass& pass, int32_t pixel, int32_t channel,
                            Accumulators<T>& sums) {
  const bool one_pass = p.phases_h * p.phases_w == 1;
#pragma unroll
  for (int j = 0; j < T::kColumnParts; ++j) {
    const int32_t own = channel + own_channel(j);
    int32_t base[2] = {0, 0};
    if (one_pass) {
      const int32_t* from = p.base + int64_t{p.taps} * p.padded_channels + own;
      base[0] = from[0], base[1] = from[1];
    } else {
      for (int32_t y = 0; y < pass.rows.taps; ++y)
        for (int32_t x = 0; x < pass.columns.taps; ++x) {
          const int32_t* from = p.base + int64_t{kernel_tap(p, pass, y, x)} * p.padded_channels + own;
          base[0] += from[0], base[1] += from[1];
        }
    }
#pragma unroll
    for (int i = 0; i < T::kRowParts; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] = p.scale * sums[i][j][e] + base[e % 2];
  }
  if (!p.zero_padding) return;
#pragma unroll
  for (int i = 0; i < T::kRowParts; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t index = pixel + own_row(i, half);
      if (index >= pass.pixels) continue;
      const Pixel px = pass.pixel(index);
      if (!misses_taps(p, pass, px)) continue;
      for (int32_t y = 0; y < pass.rows.taps; ++y) {
        const bool row_outside = outside(first_row(p, pass, px) + y * pass.rows.offset_step, p.height);
        for (int32_t x = 0; x < pass.columns.taps; ++x) {
          if (!row_outside && !outside(first_column(p, pass, px) + x * pass.columns.offset_step, p.width))
            continue;
          const int32_t* from =
              p.weight_sum + int64_t{kernel_tap(p, pass, y, x)} * p.padded_channels + channel;
#pragma unroll
          for (int j = 0; j < T::kColumnParts; ++j) {
            sums[i][j][half * 2] += from[own_channel(j)];
            sums[i][j][half * 2 + 1] += from[own_channel(j) + 1];
          }
        }
      }
    }
  }
}

}  // namespace mbu::cuda
