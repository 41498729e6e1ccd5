// The operations on CPU tensors.
#include "cpu/kernels.h"
#include "torch/check.h"
#include "torch/images.h"
#include "torch/ops.h"
#include "torch/outputs.h"
#include "torch/on_cpu.h"
#include "torch/shapes.h"

namespace mbu {

// torch/head.cpp, torch/last_floats.cpp
Tensor head_conv2d_here(const Tensor&, const Tensor&, std::optional<Tensor>, Pair);
Tensor joined_head_here(Images, const Tensor&, std::optional<Tensor>, std::optional<Tensor>);
Tensor upsample_bilinear2d_here(const Tensor&, Pair, bool, std::optional<double>, std::optional<double>);
Tensor attention_here(const Tensor&, const Tensor&, const Tensor&, double);

namespace {

using torch::headeronly::ScalarType;

using Reader = CpuKernel;

const Reader& reader() {
  return cpu_kernel();
}
Tensor tile_planes(const Tensor& planes, int64_t out_channels, Extent kernel, int64_t channel_words) {
  const WeightLayout layout = reader().layout;
  const WordRanges ranges = find_word_ranges(words(planes), out_channels, kernel.h * kernel.w, channel_words);
  Tensor out = empty_int({TiledWeight::size(layout, out_channels, kernel, ranges.count)});
  tile_weight(words(planes), out_channels, kernel, channel_words, layout, ranges,
              out.mutable_data_ptr<int32_t>());
  return out;
}
void run(const PackParams& p) {
  pack(p);
}
void run(const UnpackParams& p) {
  unpack(p);
}
void run(const JoinBitsParams& p) {
  join_bits(p);
}
void run(const MaxPool2dParams& p) {
  max_pool2d(p);
}
void run(const Conv2dParams& p, const Reader& kernel) {
  conv2d(p, kernel);
}
void run(const StemParams& p) {
  stem(p);
}

#include "torch/operations.inc"

#include "torch/stem.inc"

}  // namespace
}  // namespace mbu

STABLE_TORCH_LIBRARY_IMPL(mbu, CPU, m) {
#define MBU_OP(result, name, arguments) m.impl(#name, TORCH_BOX(&mbu::name##_here));
  MBU_OPS(MBU_OP)
#undef MBU_OP
}
