// Argument checks and output sizes. The fakes in mbu_ops/fakes.py compute the same sizes on symbols.
#pragma once
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "mbu/params.h"
#include "torch/check.h"
#include "torch/ops.h"
#include "torch/place.h"

namespace mbu {
namespace {  // the place differs between the files that include this one

using torch::headeronly::ScalarType;

inline void check_here(const char* op, const char* name, const Tensor& tensor) {
  MBU_CHECK(is_here(tensor), op, ": ", name, " is not on ", here().device,
            "; every tensor of a call must be on one device (", name, ".", here().move, ")");
}

inline void check_bits(const char* op, const Tensor& bits) {
  check_here(op, "bits", bits);
  MBU_CHECK(bits.scalar_type() == ScalarType::Int, op, ": bits is ",
            torch::headeronly::toString(bits.scalar_type()),
            "; packed activations are int32 (see mbu_ops.functional.pack)");
  MBU_CHECK(bits.dim() == 4, op, ": bits has ", bits.dim(), " dimensions; it must be [N, H, W, ceil(C/32)]");
  MBU_CHECK(bits.stride(3) == 1 || bits.size(3) <= 1, op,
            ": the words of a pixel must be contiguous, but the ", "last stride of bits is ", bits.stride(3),
            " (bits.contiguous())");
}

inline Extent pair(const char* op, const char* name, Pair values, int64_t smallest) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  MBU_CHECK(values.size() == 2, op, ": ", name, " has ", values.size(),
            " values; it must be [height, width]");
  for (int64_t value : values)
    MBU_CHECK(value >= smallest && value <= kLargest, op, ": ", name, "=[", values[0], ", ", values[1],
              "]; each value must be in ", smallest, "..", kLargest);
  return {values[0], values[1]};
}

inline void read_layer(const char* op, Pair kernel_size, Pair stride, Pair padding, Pair dilation,
                       Extent& kernel, Extent& step, Extent& pad, Extent& spread) {
  kernel = pair(op, "kernel_size", kernel_size, 1);
  step = pair(op, "stride", stride, 1);
  pad = pair(op, "padding", padding, 0);
  spread = pair(op, "dilation", dilation, 1);
}

// Every factor is below 2^31, so these sums of single products stay inside 64 bits.
inline int64_t conv_size(const char* op, const char* axis, int64_t input, int64_t kernel, int64_t stride,
                         int64_t padding, int64_t dilation) {
  const int64_t padded = checked_add(input, 2 * padding, op), reach = dilation * (kernel - 1) + 1;
  MBU_CHECK(padded >= reach, op, ": the kernel spans ", reach, " in ", axis, " but the padded input has ",
            padded, "; use a larger image, more padding or less dilation");
  return (padded - reach) / stride + 1;
}

inline int64_t transposed_size(const char* op, const char* axis, int64_t input, int64_t kernel,
                               int64_t stride, int64_t padding, int64_t output_padding, int64_t dilation) {
  MBU_CHECK(output_padding < stride || output_padding < dilation, op, ": output_padding=", output_padding,
            " in ", axis, " must be smaller than stride=", stride, " or dilation=", dilation);
  const int64_t spread = checked_mul(input - 1, stride, op);
  const int64_t size = checked_add(spread, dilation * (kernel - 1) + 1 - 2 * padding + output_padding, op);
  MBU_CHECK(size >= 1, op, ": the output would have ", size, " pixels in ", axis,
            "; use a larger image or less padding");
  return size;
}

// Elements that a layer reads for one image, its padding included; kernels copy some rows of them at a time.
inline void check_reach(const char* op, Extent input, Extent padding, int64_t channels) {
  const int64_t height = checked_add(input.h, checked_mul(2, padding.h, op), op);
  const int64_t width = checked_add(input.w, checked_mul(2, padding.w, op), op);
  checked_mul(checked_mul(height, width, op), checked_mul(channels, sizeof(Word), op), op);
}

// The rule of torch.nn.MaxPool2d: with ceil_mode the last window may run over the end, if it starts inside
// the input or the padding before it.
inline int64_t pool_size(const char* axis, int64_t input, int64_t kernel, int64_t stride, int64_t padding,
                         int64_t dilation, bool ceil_mode) {
  const char* op = "max_pool2d";
  const int64_t reach = dilation * (kernel - 1) + 1;
  MBU_CHECK(2 * padding <= reach, op, ": padding=", padding, " in ", axis,
            " is more than half of the window (", reach, "); a window must not lie in the padding alone");
  const int64_t room = checked_add(input, 2 * padding - reach, op);
  MBU_CHECK(room >= 0, op, ": the window spans ", reach, " in ", axis, " but the padded input has ",
            input + 2 * padding, "; use a larger image or a smaller window");
  int64_t size = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  if (ceil_mode && (size - 1) * stride >= input + padding) --size;
  return size;
}

// Products of one output. Counters are 32 bits wide, and an exact dot product must fit the 24 bits of a
// float32.
constexpr int64_t kLargestSpan = int64_t{1} << 24;

inline void check_planes(const Tensor& planes) {
  const char* op = "tile_weight";
  check_here(op, "planes", planes);
  MBU_CHECK(planes.scalar_type() == ScalarType::Int, op, ": planes is ",
            torch::headeronly::toString(planes.scalar_type()),
            "; weight planes are int32 (see mbu_ops.packing.pack_weight)");
  MBU_CHECK(planes.dim() == 5 && planes.size(0) == 2, op, ": planes has ", planes.dim(), " dimensions and ",
            planes.dim() ? planes.size(0) : 0, " planes; it must be [2, OC, KH, KW, ceil(C/32)]: sign, mask");
  const int64_t taps = checked_mul(planes.size(2), planes.size(3), op);
  const int64_t span = checked_mul(taps, checked_mul(planes.size(4), kWordBits, op), op);
  MBU_CHECK(taps > 0 && planes.size(4) > 0, op, ": kernel ", planes.size(2), "x", planes.size(3), " with ",
            planes.size(4), " channel words is empty; a layer needs at least one weight");
  MBU_CHECK(span <= kLargestSpan, op, ": one output sums ", span, " products; at most ", kLargestSpan,
            " are supported");
  checked_mul(span, checked_add(planes.size(1), kTileChannels, op), op);
  MBU_CHECK(planes.size(1) <= std::numeric_limits<int32_t>::max(), op, ": ", planes.size(1),
            " output channels do not fit 32 bits");
}

inline TiledWeight tiled_weight(const char* op, const Tensor& weight, int64_t out_channels, Extent kernel,
                                int64_t words, const CpuKernel& reader) {
  check_here(op, "weight", weight);
  MBU_CHECK(weight.scalar_type() == ScalarType::Int && weight.dim() == 1 && weight.is_contiguous(), op,
            ": weight is ", torch::headeronly::toString(weight.scalar_type()), " with ", weight.dim(),
            " dimensions; pass the contiguous 1-d result of mbu_ops.functional.tile_weight");
  constexpr int64_t kHeader = sizeof(TiledWeightHeader) / sizeof(int32_t);
  const TiledWeight tiled{static_cast<const int32_t*>(weight.const_data_ptr())};
  MBU_CHECK(weight.numel() >= kHeader && tiled.header().magic == TiledWeightHeader::kMagic, op,
            ": weight does not start with the header of a tiled weight; pass the result of "
            "mbu_ops.functional.tile_weight (tile again from the weight planes after loading)");
  const TiledWeightHeader& h = tiled.header();
  MBU_CHECK(
      h.layout == reader.layout, op, ": weight was tiled in the layout '", name_of(h.layout),
      "', but the CPU kernel in use, ", reader.name, ", reads '", name_of(reader.layout),
      "'; call tile_weight again on the weight planes under this kernel, or choose a kernel that reads '",
      name_of(h.layout), "' (mbu_ops.backends.use_cpu_kernel, MBU_CPU_KERNEL)");
  MBU_CHECK(h.out_channels == out_channels, op, ": out_channels=", out_channels, " but weight was tiled for ",
            h.out_channels);
  MBU_CHECK(h.kernel_h == kernel.h && h.kernel_w == kernel.w, op, ": kernel_size=[", kernel.h, ", ", kernel.w,
            "] but weight was tiled for [", h.kernel_h, ", ", h.kernel_w, "]");
  MBU_CHECK(h.words == words, op, ": bits has ", words, " channel words but weight was tiled for ", h.words,
            "; input channels and weight must be packed with the same segments");
  // The rule of check_planes again, for a header that did not come from there: sizes below stay in 64 bits.
  const int64_t span =
      checked_mul(checked_mul(kernel.h, kernel.w, op), checked_mul(words, kWordBits, op), op);
  MBU_CHECK(out_channels >= 0 && span > 0 && span <= kLargestSpan, op, ": weight has a header for ",
            out_channels, " outputs of ", span, " products each; at most ", kLargestSpan, " are supported");
  const int64_t size = TiledWeight::size(h.layout, out_channels, kernel, h.tile_words);
  bool fits = weight.numel() == size && h.tile_words >= 1 && h.tile_words <= words;
  for (int64_t i = 0; fits && i < words_of(out_channels); ++i)
    fits = tiled.first_word()[i] >= 0 && tiled.first_word()[i] + h.tile_words <= words;
  MBU_CHECK(fits, op, ": weight has ", weight.numel(), " words but its header asks for ", size,
            ", or a tile meets words that bits does not have; it is cut short or damaged");
  return tiled;
}

// `sizes` and one more behind them.
inline std::vector<int64_t> with(std::vector<int64_t> sizes, int64_t last) {
  sizes.push_back(last);
  return sizes;
}

inline std::string shape_text(const std::vector<int64_t>& sizes) {
  std::string text = "[";
  for (int64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < tensor.dim(); ++i) sizes.push_back(tensor.size(i));
  return sizes;
}

// A small parameter tensor, checked and made contiguous (a copy only where it is not).
inline Tensor dense(const char* op, const char* name, const Tensor& tensor, ScalarType type,
                    const std::vector<int64_t>& shape, const char* meaning) {
  check_here(op, name, tensor);
  MBU_CHECK(tensor.scalar_type() == type, op, ": ", name, " is ",
            torch::headeronly::toString(tensor.scalar_type()), "; it must be ",
            type == ScalarType::Int ? "int32" : "float32");
  bool same = tensor.dim() == static_cast<int64_t>(shape.size());
  for (int64_t i = 0; same && i < tensor.dim(); ++i) same = tensor.size(i) == shape[static_cast<size_t>(i)];
  MBU_CHECK(same, op, ": ", name, " has shape ", shape_text(sizes_of(tensor)), "; it must be ", meaning,
            " = ", shape_text(shape));
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// A float image, into the fields of StemParams or HeadParams.
template <class Params>
void read_floats(const char* op, const Tensor& x, Params& p) {
  check_here(op, "x", x);
  MBU_CHECK(x.scalar_type() == ScalarType::Float && x.dim() == 4, op, ": x is ",
            torch::headeronly::toString(x.scalar_type()), " with ", x.dim(),
            " dimensions; it must be float32 [N, C, H, W]");
  p.input = x.const_data_ptr<float>();
  p.batch = x.size(0);
  p.channels = x.size(1);
  p.height = x.size(2);
  p.width = x.size(3);
  p.stride_n = x.stride(0);
  p.stride_c = x.stride(1);
  p.stride_h = x.stride(2);
  p.stride_w = x.stride(3);
}

// The types that a float stream is stored in, of a dtype.
inline std::optional<FloatType> stream_type(ScalarType type) {
  if (type == ScalarType::Float) return FloatType::f32;
  if (type == ScalarType::BFloat16) return FloatType::bf16;
  if (type == ScalarType::Char) return FloatType::fixed8;
  return std::nullopt;
}

inline FloatType stored_as(const char* op, ScalarType type) {
  const auto known = stream_type(type);
  MBU_CHECK(known, op, ": dtype is ", torch::headeronly::toString(type),
            "; a float stream is stored as float32, bfloat16 or int8, in sixteenths");
  return *known;
}

// One part of a residual, which must have the output's size once pooled or upsampled.
inline StreamSource read_residual(const char* op, const Conv2dParams& p, const Tensor& part, int64_t pool,
                                  int64_t upsample) {
  check_here(op, "residual", part);
  const auto type = stream_type(part.scalar_type());
  MBU_CHECK(type && part.dim() == 4, op, ": residual is ", torch::headeronly::toString(part.scalar_type()),
            " with ", part.dim(), " dimensions; it must be float32, bfloat16 or int8 [N, C, H, W]");
  MBU_CHECK(pool >= 1 && upsample >= 1 && (pool == 1 || upsample == 1), op, ": pool=", pool,
            " and upsample=", upsample, " must be at least 1, and one of them 1");
  const int64_t height = part.size(2) / pool * upsample, width = part.size(3) / pool * upsample;
  MBU_CHECK(part.size(0) == p.input.batch && height == p.output.h && width == p.output.w, op,
            ": residual gives ", part.size(0), " images of ", height, "x", width, " pixels, the layer ",
            p.input.batch, " of ", p.output.h, "x", p.output.w);
  return {part.const_data_ptr(), part.size(1),   part.stride(0), part.stride(1),
          part.stride(2),        part.stride(3), *type};
}

}  // namespace
}  // namespace mbu
