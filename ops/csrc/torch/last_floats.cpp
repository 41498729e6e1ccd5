// Bilinear upsampling and attention over pixels on CPU tensors: check, allocate, call.
#include <algorithm>
#include <array>
#include <optional>

#include "cpu/kernels.h"
#include "torch/check.h"
#include "torch/on_cpu.h"
#include "torch/ops.h"
#include "torch/outputs.h"
#include "torch/shapes.h"

namespace mbu {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

// Rows of attention weights at a time: 4 MB of them for 2048 keys.
constexpr int64_t kRows = 512;

// torch's own operation.
template <class... Arguments>
Tensor call(const char* op, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace

Tensor upsample_bilinear2d_here(const Tensor& x, Pair size, bool align_corners, std::optional<double> scale_h,
                                std::optional<double> scale_w) {
  const char* op = "upsample_bilinear2d";
  check_here(op, "x", x);
  MBU_CHECK(x.scalar_type() == ScalarType::Float && x.dim() == 4, op, ": x is ",
            torch::headeronly::toString(x.scalar_type()), " with ", x.dim(),
            " dimensions; it must be float32 [N, C, H, W]");
  const Extent wanted = pair(op, "size", size, 1);
  MBU_CHECK(x.size(2) > 0 && x.size(3) > 0, op, ": x has ", x.size(2), "x", x.size(3),
            " pixels, which nothing can be made of; it needs at least one");
  const Tensor dense = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  Tensor out = empty_nhwc({x.size(0), x.size(1), wanted.h, wanted.w}, ScalarType::Float);
  upsample({dense.const_data_ptr<float>(), x.size(0), x.size(1), x.size(2), x.size(3), wanted, align_corners,
            scale_h.value_or(0), scale_w.value_or(0), out.mutable_data_ptr<float>()});
  return out;
}

Tensor attention_here(const Tensor& query, const Tensor& key, const Tensor& value, double scale) {
  const char* op = "attention";
  const struct {
    const char* name;
    const Tensor& tensor;
  } given[] = {{"query", query}, {"key", key}, {"value", value}};
  for (const auto& [name, tensor] : given) {
    check_here(op, name, tensor);
    MBU_CHECK(tensor.scalar_type() == ScalarType::Float && tensor.dim() == 4 &&
                  tensor.size(0) == query.size(0) && tensor.size(1) == query.size(1),
              op, ": ", name, " is ", torch::headeronly::toString(tensor.scalar_type()), " with ",
              tensor.dim(),
              " dimensions; query, key and value must be float32 [N, heads, tokens, channels] of as many "
              "images and heads");
  }
  MBU_CHECK(key.size(3) == query.size(3) && key.size(2) == value.size(2), op, ": query has ", query.size(3),
            " channels and key ", key.size(3), ", key has ", key.size(2), " tokens and value ", value.size(2),
            "; they must agree");
  const int64_t heads = query.size(0) * query.size(1), rows = query.size(2), channels = query.size(3);
  const int64_t keys = key.size(2), out_channels = value.size(3);
  // Nothing here has a gradient; torch's operations would ask for one.
  const Tensor k = torch::stable::transpose(
      torch::stable::reshape(call("aten::detach", "", key), {heads, keys, channels}), 1, 2);
  const Tensor v = torch::stable::reshape(call("aten::detach", "", value), {heads, keys, out_channels});
  const Tensor dense = torch::stable::contiguous(query);
  Tensor out = torch::stable::empty({heads, rows, out_channels}, ScalarType::Float);
  const float* from = dense.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const float factor = static_cast<float>(scale);
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t count = std::min(kRows, rows - row);
    Tensor q = torch::stable::empty({heads, count, channels}, ScalarType::Float);
    float* scaled = q.mutable_data_ptr<float>();
    for (int64_t head = 0; head < heads; ++head, scaled += count * channels)
      std::transform(from + (head * rows + row) * channels, from + (head * rows + row + count) * channels,
                     scaled, [factor](float x) { return factor * x; });
    const Tensor weights = call("aten::_softmax", "", torch::stable::matmul(q, k), int64_t{-1}, false);
    const Tensor attended = torch::stable::contiguous(torch::stable::matmul(weights, v));
    const float* part = attended.const_data_ptr<float>();
    for (int64_t head = 0; head < heads; ++head, part += count * out_channels)
      std::copy_n(part, count * out_channels, to + (head * rows + row) * out_channels);
  }
  return torch::stable::reshape(out, {query.size(0), query.size(1), rows, out_channels});
}

}  // namespace mbu
