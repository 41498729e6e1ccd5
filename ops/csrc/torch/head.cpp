// The head on CPU tensors: check, allocate, call.
#include <vector>

#include "cpu/head/head.h"
#include "cpu/kernels.h"
#include "torch/check.h"
#include "torch/on_cpu.h"
#include "torch/ops.h"
#include "torch/outputs.h"
#include "torch/shapes.h"

namespace mbu {
namespace {

using torch::headeronly::ScalarType;

}  // namespace

Tensor head_conv2d_here(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, Pair padding) {
  const char* op = "head_conv2d";
  HeadParams p{};
  read_floats(op, x, p);
  check_here(op, "weight", weight);
  MBU_CHECK(weight.dim() == 4 && weight.size(3) == x.size(1) && weight.size(1) > 0 && weight.size(2) > 0 &&
                x.size(1) > 0,
            op, ": weight has ", weight.dim(), " dimensions; for ", x.size(1),
            " input channels it must be float32 [classes, KH, KW, ", x.size(1), "]");
  const int64_t classes = weight.size(0);
  MBU_CHECK(classes <= kHeadClasses, op, ": weight is for ", classes, " classes; at most ", kHeadClasses,
            " are computed here, torch.conv2d is as fast with more");
  const Tensor weights = dense(op, "weight", weight, ScalarType::Float,
                               {classes, weight.size(1), weight.size(2), x.size(1)}, "[classes, KH, KW, C]");
  p.weight = weights.const_data_ptr<float>();
  p.classes = classes;
  p.kernel = {weight.size(1), weight.size(2)};
  p.padding = pair(op, "padding", padding, 0);
  p.output = {conv_size(op, "height", p.height, p.kernel.h, 1, p.padding.h, 1),
              conv_size(op, "width", p.width, p.kernel.w, 1, p.padding.w, 1)};
  checked_mul(checked_mul(p.kernel.h, p.width, op), checked_mul(p.channels, sizeof(float), op), op);
  const std::vector<float> zeros(static_cast<size_t>(classes));
  Tensor biases;
  p.bias = zeros.data();
  if (bias) {
    biases = dense(op, "bias", *bias, ScalarType::Float, {classes}, "[classes]");
    p.bias = biases.const_data_ptr<float>();
  }
  Tensor out = empty_nhwc({p.batch, classes, p.output.h, p.output.w}, ScalarType::Float);
  p.logits = out.mutable_data_ptr<float>();
  head(p);
  return out;
}

Tensor joined_head_here(Images x, const Tensor& weight, std::optional<Tensor> bias,
                        std::optional<Tensor> gate) {
  const char* op = "joined_head";
  MBU_CHECK(!x.empty(), op, ": x is empty; give at least one map");
  MBU_CHECK(weight.dim() == 2, op, ": weight has ", weight.dim(), " dimensions; it must be [classes, C]");
  JoinedHeadParams p{};
  std::vector<StreamSource> parts;
  for (const Tensor& part : x) {
    check_here(op, "x", part);
    MBU_CHECK(part.scalar_type() == ScalarType::Float && part.dim() == 4, op, ": a part of x is ",
              torch::headeronly::toString(part.scalar_type()), " with ", part.dim(),
              " dimensions; it must be float32 [N, C, H, W]");
    MBU_CHECK(part.size(0) == x[0].size(0) && part.size(2) == x[0].size(2) && part.size(3) == x[0].size(3),
              op, ": a part of x has ", part.size(0), " images of ", part.size(2), "x", part.size(3),
              " pixels, the first one ", x[0].size(0), " of ", x[0].size(2), "x", x[0].size(3));
    parts.push_back({part.const_data_ptr(), part.size(1), part.stride(0), part.stride(1), part.stride(2),
                     part.stride(3), FloatType::f32});
    p.channels += part.size(1);
  }
  const int64_t classes = weight.size(0);
  check_here(op, "weight", weight);
  const Tensor weights =
      dense(op, "weight", weight, ScalarType::Float, {classes, p.channels}, "[classes, C]");
  p.part = parts.data();
  p.parts = static_cast<int64_t>(parts.size());
  p.batch = x[0].size(0);
  p.height = x[0].size(2);
  p.width = x[0].size(3);
  p.weight = weights.const_data_ptr<float>();
  p.classes = classes;
  Tensor biases, gates;
  if (bias) {
    biases = dense(op, "bias", *bias, ScalarType::Float, {classes}, "[classes]");
    p.bias = biases.const_data_ptr<float>();
  }
  if (gate) {
    check_here(op, "gate", *gate);
    gates = dense(op, "gate", *gate, ScalarType::Float, {p.batch, p.channels, 1, 1}, "[N, C, 1, 1]");
    p.gate = gates.const_data_ptr<float>();
  }
  Tensor out = empty_nhwc({p.batch, classes, p.height, p.width}, ScalarType::Float);
  p.logits = out.mutable_data_ptr<float>();
  joined_head(p);
  return out;
}

}  // namespace mbu
