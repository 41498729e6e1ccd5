// Bilinear upsampling of a float map whose channels lie side by side: each output pixel is four input pixels.
#include <algorithm>

#include "cpu/head/head.h"
#include "cpu/kernels.h"
#include "mbu/parallel.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

// Output values below which a second thread does not pay.
constexpr int64_t kGrain = 16384;

// Where output `index` of an axis lies between two inputs, as torch computes it.
struct Between {
  int64_t first, second;
  float share;  // of the second

  Between(int64_t index, int64_t input, int64_t output, bool align_corners, double scale) {
    float at;
    if (align_corners) {
      const float step = output > 1 ? static_cast<float>(input - 1) / static_cast<float>(output - 1) : 0.0f;
      at = step * static_cast<float>(index);
    } else {
      const float step = scale > 0 ? static_cast<float>(1.0 / scale)
                                   : static_cast<float>(input) / static_cast<float>(output);
      at = std::max(step * (static_cast<float>(index) + 0.5f) - 0.5f, 0.0f);
    }
    first = std::min(static_cast<int64_t>(at), input - 1);
    second = std::min(first + 1, input - 1);
    share = std::clamp(at - static_cast<float>(first), 0.0f, 1.0f);
  }
};

}  // namespace

void upsample(const UpsampleParams& p) {
  if (p.batch * p.channels * p.output.h * p.output.w == 0) return;
  const CpuKernel& kernel = cpu_kernel();
  static thread_local Scratch column_memory;
  auto* columns = column_memory.get<UpsampleColumn>(p.output.w);
  for (int64_t x = 0; x < p.output.w; ++x) {
    const Between between(x, p.width, p.output.w, p.align_corners, p.scale_w);
    columns[x] = {between.first * p.channels, between.second * p.channels, between.share};
  }
  const UpsampleColumn* shared = columns;
  const int64_t grain = std::max<int64_t>(1, kGrain / (p.output.w * p.channels));
  parallel_for(p.batch * p.output.h, grain, [&](int64_t row) {
    const Between y(row % p.output.h, p.height, p.output.h, p.align_corners, p.scale_h);
    const int64_t in_row = p.width * p.channels, image = row / p.output.h * p.height;
    kernel.upsample_row({p.input + (image + y.first) * in_row, p.input + (image + y.second) * in_row, y.share,
                         shared, p.output.w, p.channels, p.result + row * p.output.w * p.channels});
  });
}

}  // namespace mbu
