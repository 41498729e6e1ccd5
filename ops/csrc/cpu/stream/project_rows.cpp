#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/stream/stream.h"
#include "mbu/scratch.h"

namespace mbu {

void project_rows(const Conv2dParams& p, const CpuKernel& kernel, const StreamBand& band, int64_t row,
                  int64_t rows, const float* finished) {
  static thread_local Scratch bias_memory, transposed_memory;
  const Stream& s = *p.stream;
  constexpr int64_t kPadding = 16;  // of classes: the longest vector of any kernel
  const int64_t padded = (s.classes + kPadding - 1) / kPadding * kPadding;
  float* bias = bias_memory.get<float>(padded);
  std::fill(bias, bias + padded, 0.0f);
  if (s.head_bias) std::copy_n(s.head_bias, s.classes, bias);
  float* transposed = nullptr;
  if (s.classes > kDotClasses) {
    transposed = transposed_memory.get<float>(padded * p.out_channels);
    std::fill(transposed, transposed + padded * p.out_channels, 0.0f);
    for (int64_t k = 0; k < s.classes; ++k)
      for (int64_t c = 0; c < p.out_channels; ++c)
        transposed[c * padded + k] = s.head[k * p.out_channels + c];
  }
  for (int64_t r = row; r < row + rows; ++r, finished += band.columns * p.out_channels) {
    const int64_t pixel = (band.n * p.output.h + band.row + r * band.row_step) * p.output.w + band.column;
    kernel.head_row({finished, band.columns, p.out_channels, s.head, transposed, s.classes, padded, bias,
                     s.logits + pixel * s.classes, band.column_step * s.classes});
  }
}

}  // namespace mbu
