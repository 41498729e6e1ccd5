// The stem on CPU tensors: check, allocate, call.
#include "cpu/kernels.h"
#include "torch/check.h"
#include "torch/on_cpu.h"
#include "torch/ops.h"
#include "torch/outputs.h"
#include "torch/shapes.h"

namespace mbu {
namespace {

using torch::headeronly::ScalarType;

// Columns that a kernel reads are at most this many times the padded width: it rounds outputs up to 12.
constexpr int64_t kStemReach = 12;

// Everything but what follows the convolution.
StemParams stem_layer(const char* op, const Tensor& x, const Tensor& weight, int64_t out_channels,
                      Pair stride, Pair padding, Pair dilation) {
  StemParams p{};
  read_floats(op, x, p);
  check_here(op, "weight", weight);
  MBU_CHECK(weight.scalar_type() == ScalarType::Float && weight.dim() == 5 && weight.is_contiguous(), op,
            ": weight is ", torch::headeronly::toString(weight.scalar_type()), " with ", weight.dim(),
            " dimensions; pass the result of mbu_ops.packing.tile_stem_weight");
  MBU_CHECK(weight.size(0) == words_of(out_channels) && weight.size(3) == x.size(1) &&
                weight.size(4) == kTileChannels,
            op, ": weight has shape [", weight.size(0), ", ", weight.size(1), ", ", weight.size(2), ", ",
            weight.size(3), ", ", weight.size(4), "]; for ", x.size(1), " input and ", out_channels,
            " output channels it must be [", words_of(out_channels), ", KH, KW, ", x.size(1), ", 32]");
  p.weight = weight.const_data_ptr<float>();
  p.out_channels = out_channels;
  p.kernel = {weight.size(1), weight.size(2)};
  MBU_CHECK(p.kernel.h > 0 && p.kernel.w > 0 && p.channels > 0, op, ": kernel ", p.kernel.h, "x", p.kernel.w,
            " over ", p.channels, " channels is empty; a layer needs at least one weight");
  p.stride = pair(op, "stride", stride, 1);
  p.padding = pair(op, "padding", padding, 0);
  p.dilation = pair(op, "dilation", dilation, 1);
  p.output = {conv_size(op, "height", p.height, p.kernel.h, p.stride.h, p.padding.h, p.dilation.h),
              conv_size(op, "width", p.width, p.kernel.w, p.stride.w, p.padding.w, p.dilation.w)};
  // Where there is one output, no step is taken; kernels round outputs up to whole registers.
  if (p.output.h == 1) p.stride.h = 1;
  if (p.output.w == 1) p.stride.w = 1;
  check_reach(op, {p.height, checked_mul(p.width, kStemReach, op)}, {p.padding.h, p.padding.w * kStemReach},
              p.channels);
  const int64_t pixels = checked_mul(checked_mul(p.batch, p.output.h, op), p.output.w, op);
  checked_mul(pixels, checked_mul(words_of(out_channels), kTileChannels * 4, op), op);
  return p;
}

Tensor bits_of(const char* op, const StemParams& p) {
  const int64_t words = checked_mul(p.stream.planes, words_of(p.out_channels), op);
  return empty_int({p.batch, p.output.h, p.output.w, words});
}

}  // namespace

Tensor stem_threshold_here(const Tensor& x, const Tensor& weight, const Tensor& threshold, const Tensor& flip,
                           Pair stride, Pair padding, Pair dilation) {
  const char* op = "stem_threshold";
  MBU_CHECK(threshold.dim() == 2, op, ": threshold has ", threshold.dim(),
            " dimensions; it must be [T, OC], one row per output plane (threshold[None])");
  const int64_t planes = threshold.size(0), channels = threshold.size(1);
  StemParams p = stem_layer(op, x, weight, channels, stride, padding, dilation);
  const Tensor thresholds =
      dense(op, "threshold", threshold, ScalarType::Float, {planes, channels}, "[T, OC]");
  const Tensor flips =
      dense(op, "flip", flip, ScalarType::Int, {planes, words_of(channels)}, "[T, ceil(OC/32)]");
  p.stream.planes = planes;
  p.stream.threshold = thresholds.const_data_ptr<float>();
  p.flip = static_cast<const Word*>(flips.const_data_ptr());
  Tensor out = bits_of(op, p);
  p.stream.bits = static_cast<Word*>(out.mutable_data_ptr());
  if (planes > 0) stem(p);
  return out;
}

FloatAndBits stem_stream_here(const Tensor& x, const Tensor& weight, const Tensor& affine,
                              std::optional<Tensor> threshold, Pair stride, Pair padding, Pair dilation,
                              bool relu, std::optional<ScalarType> dtype) {
  const char* op = "stem_stream";
  MBU_CHECK(affine.dim() == 3, op, ": affine has ", affine.dim(),
            " dimensions; it must be [steps, 2, OC]: factors and offsets");
  const int64_t steps = affine.size(0), channels = affine.size(2);
  StemParams p = stem_layer(op, x, weight, channels, stride, padding, dilation);
  const Tensor steps_dense =
      dense(op, "affine", affine, ScalarType::Float, {steps, 2, channels}, "[steps, 2, OC]");
  p.stream.affine = steps_dense.const_data_ptr<float>();
  p.stream.steps = steps;
  p.stream.relu = relu;
  Tensor thresholds;
  if (threshold) {
    MBU_CHECK(threshold->dim() == 2, op, ": threshold has ", threshold->dim(),
              " dimensions; it must be [T, OC], one row per plane of bits (threshold[None])");
    p.stream.planes = threshold->size(0);
    thresholds =
        dense(op, "threshold", *threshold, ScalarType::Float, {p.stream.planes, channels}, "[T, OC]");
    p.stream.threshold = thresholds.const_data_ptr<float>();
  }
  const ScalarType type = dtype.value_or(ScalarType::Float);
  p.stream.type = stored_as(op, type);
  Tensor out = empty_nhwc({p.batch, channels, p.output.h, p.output.w}, type);
  Tensor out_bits = bits_of(op, p);
  p.stream.output = out.mutable_data_ptr();
  p.stream.bits = static_cast<Word*>(out_bits.mutable_data_ptr());
  stem(p);
  return {out, out_bits};
}

}  // namespace mbu
