// The 1x1 head of several maps joined along the channels, each channel times the gate that attention gives
// it: some pixels of every map are laid side by side in cache, and the gates go into the weights. Neither the
// joined map nor its product with the gates is ever in memory.
#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/stream/stream.h"
#include "mbu/parallel.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

// Pixels laid side by side at a time.
constexpr int64_t kChunk = 192;
// Multiply-adds (about 0.03 ns each) below which a second thread does not pay.
constexpr int64_t kGrain = 1000000;

// What the threads share.
struct Plan {
  Scratch weight_memory, bias_memory;
  float *weight, *bias;  // weight: of every image [classes, C], or with many classes [C, padded]
  int64_t padded;
  bool transposed;
};

void make_plan(const JoinedHeadParams& p, Plan& plan) {
  constexpr int64_t kPadding = 16;  // the longest vector of any kernel
  plan.padded = (p.classes + kPadding - 1) / kPadding * kPadding;
  plan.transposed = p.classes > kDotClasses;
  plan.bias = plan.bias_memory.get<float>(plan.padded);
  std::fill(plan.bias, plan.bias + plan.padded, 0.0f);
  if (p.bias) std::copy_n(p.bias, p.classes, plan.bias);
  const int64_t images = p.gate ? p.batch : 1, floats = p.channels * plan.padded;
  plan.weight = plan.weight_memory.get<float>(images * floats);
  std::fill(plan.weight, plan.weight + images * floats, 0.0f);
  for (int64_t n = 0; n < images; ++n) {
    for (int64_t k = 0; k < p.classes; ++k) {
      for (int64_t c = 0; c < p.channels; ++c) {
        const int64_t at = plan.transposed ? c * plan.padded + k : k * p.channels + c;
        plan.weight[n * floats + at] =
            p.weight[k * p.channels + c] * (p.gate ? p.gate[n * p.channels + c] : 1.0f);
      }
    }
  }
}

void join(const JoinedHeadParams& p, int64_t n, int64_t row, int64_t begin, int64_t end, float* joined) {
  for (int64_t i = 0; i < p.parts; ++i) {
    const StreamSource& part = p.part[i];
    const auto* from = static_cast<const float*>(part.data) + n * part.stride_n + row * part.stride_h;
    const int64_t channels = part.channels, step = part.stride_c;
    for (int64_t x = begin; x < end; ++x) {
      const float* pixel = from + x * part.stride_w;
      float* to = joined + (x - begin) * p.channels;
      for (int64_t c = 0; c < channels; ++c) to[c] = pixel[c * step];
    }
    joined += channels;
  }
}

void run_row(const JoinedHeadParams& p, const CpuKernel& kernel, const Plan& plan, int64_t item) {
  static thread_local Scratch memory;
  const int64_t n = item / p.height, row = item % p.height;
  const float* weight = plan.weight + (p.gate ? n : 0) * p.channels * plan.padded;
  float* joined = memory.get<float>(kChunk * p.channels);
  for (int64_t begin = 0; begin < p.width; begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, p.width);
    join(p, n, row, begin, end, joined);
    kernel.head_row({joined, end - begin, p.channels, weight, plan.transposed ? weight : nullptr, p.classes,
                     plan.padded, plan.bias, p.logits + (item * p.width + begin) * p.classes, p.classes});
  }
}

}  // namespace

void joined_head(const JoinedHeadParams& p) {
  if (p.batch * p.height * p.width * p.classes == 0) return;
  static thread_local Plan plan;
  make_plan(p, plan);
  const Plan& shared = plan;  // the calling thread's: `plan` itself would name each worker's own
  const CpuKernel& kernel = cpu_kernel();
  const int64_t work = p.width * p.channels * p.classes;
  parallel_for(p.batch * p.height, std::max<int64_t>(1, kGrain / std::max<int64_t>(work, 1)),
               [&](int64_t item) { run_row(p, kernel, shared, item); });
}

}  // namespace mbu
