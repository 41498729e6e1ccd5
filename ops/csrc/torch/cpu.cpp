// The operations on CPU tensors: check, allocate, call. No arithmetic on data here.
#include "cpu/kernels.h"
#include "torch/check.h"
#include "torch/images.h"
#include "torch/ops.h"
#include "torch/outputs.h"
#include "torch/shapes.h"

namespace mbu {

// torch/stem.cpp
Tensor stem_threshold_cpu(const Tensor&, const Tensor&, const Tensor&, const Tensor&, Pair, Pair, Pair);
FloatAndBits stem_stream_cpu(const Tensor&, const Tensor&, const Tensor&, std::optional<Tensor>, Pair, Pair,
                             Pair, bool);

namespace {

using torch::headeronly::ScalarType;

Tensor pack_cpu(const Tensor& x, std::optional<Tensor> threshold, std::optional<Tensor> flip) {
  MBU_CHECK(x.dim() == 4, "pack: x has ", x.dim(), " dimensions; it must be [N, C, H, W]");
  PackParams p{};
  switch (x.scalar_type()) {
    case ScalarType::Float:
      p.type = FloatType::f32;
      break;
    case ScalarType::BFloat16:
      p.type = FloatType::bf16;
      break;
    case ScalarType::Half:
      p.type = FloatType::f16;
      break;
    default:
      fail("pack: x is ", torch::headeronly::toString(x.scalar_type()),
           "; it must be float32, bfloat16 or float16 (x.float())");
  }
  const int64_t channels = x.size(1), channel_words = words_of(channels);
  Tensor threshold_dense, flip_dense;
  if (threshold) {
    threshold_dense = dense("pack", "threshold", *threshold, ScalarType::Float, {channels}, "[C]");
    p.threshold = threshold_dense.const_data_ptr<float>();
  }
  if (flip) {
    flip_dense = dense("pack", "flip", *flip, ScalarType::Int, {channel_words}, "[ceil(C/32)]");
    p.flip = words(flip_dense);
  }
  p.input = x.const_data_ptr();
  p.batch = x.size(0);
  p.channels = channels;
  p.height = x.size(2);
  p.width = x.size(3);
  p.stride_n = x.stride(0);
  p.stride_c = x.stride(1);
  p.stride_h = x.stride(2);
  p.stride_w = x.stride(3);
  Tensor out = empty_int({p.batch, p.height, p.width, channel_words});
  p.output = static_cast<Word*>(out.mutable_data_ptr());
  pack(p);
  return out;
}

Tensor unpack_cpu(const Tensor& bits, int64_t channels) {
  UnpackParams p{};
  p.input = image("unpack", bits);
  MBU_CHECK(channels >= 0 && words_of(channels) == p.input.words, "unpack: channels=", channels, " needs ",
            words_of(channels), " words, but bits has ", p.input.words,
            "; pass the channel count that was packed, or slice the words of one part");
  p.channels = channels;
  Tensor out = empty_nhwc({p.input.batch, channels, p.input.height, p.input.width}, ScalarType::Float);
  p.output = out.mutable_data_ptr<float>();
  unpack(p);
  return out;
}

Tensor tile_weight_cpu(const Tensor& planes) {
  check_planes(planes);
  const int64_t oc = planes.size(1), kh = planes.size(2), kw = planes.size(3), cw = planes.size(4);
  const Tensor source = torch::stable::contiguous(planes);
  const WeightLayout layout = cpu_kernel().layout;
  const WordRanges ranges = find_word_ranges(words(source), oc, kh * kw, cw);
  Tensor out = empty_int({TiledWeight::size(layout, oc, {kh, kw}, ranges.count)});
  tile_weight(words(source), oc, {kh, kw}, cw, layout, ranges, out.mutable_data_ptr<int32_t>());
  return out;
}

struct Threshold {
  const Tensor &threshold, &flip;
};

// The weight of a layer; `p` holds its input, geometry and output size.
void read_weight(const char* op, Conv2dParams& p, const Tensor& weight, const CpuKernel& kernel) {
  p.weight = tiled_weight(op, weight, p.out_channels, p.kernel, p.input.words, kernel);
  const int64_t pixels = checked_mul(checked_mul(p.input.batch, p.output.h, op), p.output.w, op);
  checked_mul(pixels, words_of(p.out_channels) * kTileChannels * 4, op);
}

// Sums, or bits with thresholds: the part that four convolutions share.
Tensor run_conv(const char* op, Conv2dParams& p, const Tensor& weight, const Threshold* t) {
  const CpuKernel& kernel = cpu_kernel();  // one for the check and the call
  read_weight(op, p, weight, kernel);
  const int64_t n = p.input.batch, oc_words = words_of(p.out_channels);
  if (!t) {
    Tensor out = empty_nhwc({n, p.out_channels, p.output.h, p.output.w}, ScalarType::Float);
    p.sums = out.mutable_data_ptr<float>();
    conv2d(p, kernel);
    return out;
  }
  MBU_CHECK(t->threshold.dim() == 2, op, ": threshold has ", t->threshold.dim(),
            " dimensions; it must be [T, OC], one row per output plane (threshold[None])");
  p.planes = t->threshold.size(0);
  const Tensor threshold =
      dense(op, "threshold", t->threshold, ScalarType::Int, {p.planes, p.out_channels}, "[T, OC]");
  const Tensor flip = dense(op, "flip", t->flip, ScalarType::Int, {p.planes, oc_words}, "[T, ceil(OC/32)]");
  p.threshold = threshold.const_data_ptr<int32_t>();
  p.flip = words(flip);
  Tensor out = empty_int({n, p.output.h, p.output.w, checked_mul(p.planes, oc_words, op)});
  p.bits = static_cast<Word*>(out.mutable_data_ptr());
  if (p.planes > 0) conv2d(p, kernel);
  return out;
}

struct StreamArguments {
  const Tensor& affine;
  const std::vector<Tensor>& residual;
  const std::optional<Tensor>& threshold;
  int64_t pool, upsample;
  bool relu;
  const std::optional<Tensor>&head, &head_bias;
  std::optional<ScalarType> dtype;
};

// The float stream and its bits: what follows dot products whose result is needed as float.
FloatAndBits run_stream(const char* op, Conv2dParams& p, const Tensor& weight, const StreamArguments& a) {
  const CpuKernel& kernel = cpu_kernel();  // one for the check and the call
  read_weight(op, p, weight, kernel);
  const int64_t n = p.input.batch, oc = p.out_channels;
  Stream s{};
  MBU_CHECK(a.affine.dim() == 3, op, ": affine has ", a.affine.dim(),
            " dimensions; it must be [steps, 2, OC]: factors and offsets");
  s.steps = a.affine.size(0);
  const Tensor affine = dense(op, "affine", a.affine, ScalarType::Float, {s.steps, 2, oc}, "[steps, 2, OC]");
  s.affine = affine.const_data_ptr<float>();
  s.pool = a.pool;
  s.upsample = a.upsample;
  s.relu = a.relu;
  std::vector<StreamSource> sources;
  for (const Tensor& part : a.residual) sources.push_back(read_residual(op, p, part, a.pool, a.upsample));
  for (const StreamSource& source : sources) s.residual_channels += source.channels;
  MBU_CHECK(sources.empty() ||
                (s.residual_channels > 0 && (s.residual_channels % oc == 0 || oc % s.residual_channels == 0)),
            op, ": residual has ", s.residual_channels, " channels in all and the layer ", oc,
            "; one must be a multiple of the other");
  s.residual = sources.data();
  s.residuals = static_cast<int64_t>(sources.size());
  Tensor threshold;
  if (a.threshold) {
    MBU_CHECK(a.threshold->dim() == 2, op, ": threshold has ", a.threshold->dim(),
              " dimensions; it must be [T, OC], one row per plane of bits (threshold[None])");
    s.planes = a.threshold->size(0);
    threshold = dense(op, "threshold", *a.threshold, ScalarType::Float, {s.planes, oc}, "[T, OC]");
    s.threshold = threshold.const_data_ptr<float>();
  }
  Tensor head, head_bias;
  if (a.head) {
    MBU_CHECK(!a.threshold, op, ": a layer with a head yields logits alone; leave threshold out");
    MBU_CHECK(a.head->dim() == 2, op, ": head has ", a.head->dim(), " dimensions; it must be [classes, OC]");
    s.classes = a.head->size(0);
    head = dense(op, "head", *a.head, ScalarType::Float, {s.classes, oc}, "[classes, OC]");
    s.head = head.const_data_ptr<float>();
    if (a.head_bias) {
      head_bias = dense(op, "head_bias", *a.head_bias, ScalarType::Float, {s.classes}, "[classes]");
      s.head_bias = head_bias.const_data_ptr<float>();
    }
  }
  const ScalarType type = a.dtype.value_or(ScalarType::Float);
  MBU_CHECK(type == ScalarType::Float || (type == ScalarType::BFloat16 && !a.head), op, ": dtype is ",
            torch::headeronly::toString(type),
            "; a float stream is stored as float32 or bfloat16, logits as float32");
  Tensor out = empty_nhwc({n, a.head ? s.classes : oc, p.output.h, p.output.w}, type);
  Tensor out_bits = empty_int({n, p.output.h, p.output.w, checked_mul(s.planes, words_of(oc), op)});
  if (type == ScalarType::Float)
    (a.head ? s.logits : s.output) = out.mutable_data_ptr<float>();
  else
    s.narrow = static_cast<Bfloat16*>(out.mutable_data_ptr());
  s.bits = static_cast<Word*>(out_bits.mutable_data_ptr());
  p.stream = &s;
  conv2d(p, kernel);
  return {out, out_bits};
}

Conv2dParams layer(const Joined& in, int64_t out_channels) {
  Conv2dParams p{};
  p.input = in.image;
  p.part = in.parts.data();
  p.parts = static_cast<int64_t>(in.parts.size());
  p.out_channels = out_channels;
  return p;
}

Conv2dParams conv2d_layer(const char* op, const Joined& in, int64_t out_channels, Pair kernel_size,
                          Pair stride, Pair padding, Pair dilation, int64_t pad_value) {
  MBU_CHECK(pad_value == 0 || pad_value == -1, op, ": pad_value=", pad_value,
            "; it must be 0 (a padded tap contributes nothing) or -1 (a padded activation is -1)");
  Conv2dParams p = layer(in, out_channels);
  p.zero_padding = pad_value == 0;
  read_layer(op, kernel_size, stride, padding, dilation, p.kernel, p.stride, p.padding, p.dilation);
  p.output = {conv_size(op, "height", in.image.height, p.kernel.h, p.stride.h, p.padding.h, p.dilation.h),
              conv_size(op, "width", in.image.width, p.kernel.w, p.stride.w, p.padding.w, p.dilation.w)};
  return p;
}

Conv2dParams transposed_layer(const char* op, const Joined& in, int64_t out_channels, Pair kernel_size,
                              Pair stride, Pair padding, Pair output_padding, Pair dilation) {
  Conv2dParams p = layer(in, out_channels);
  p.transposed = true;
  p.zero_padding = true;
  read_layer(op, kernel_size, stride, padding, dilation, p.kernel, p.stride, p.padding, p.dilation);
  const Extent extra = pair(op, "output_padding", output_padding, 0);
  p.output = {transposed_size(op, "height", in.image.height, p.kernel.h, p.stride.h, p.padding.h, extra.h,
                              p.dilation.h),
              transposed_size(op, "width", in.image.width, p.kernel.w, p.stride.w, p.padding.w, extra.w,
                              p.dilation.w)};
  return p;
}

Tensor conv2d_cpu(Images bits, const Tensor& weight, int64_t out_channels, Pair kernel_size, Pair stride,
                  Pair padding, Pair dilation, int64_t pad_value, Pair size) {
  const char* op = "conv2d";
  const Joined in = join(op, bits, size);
  Conv2dParams p = conv2d_layer(op, in, out_channels, kernel_size, stride, padding, dilation, pad_value);
  return run_conv(op, p, weight, nullptr);
}

Tensor conv2d_threshold_cpu(Images bits, const Tensor& weight, const Tensor& threshold, const Tensor& flip,
                            int64_t out_channels, Pair kernel_size, Pair stride, Pair padding, Pair dilation,
                            int64_t pad_value, Pair size) {
  const Threshold t{threshold, flip};
  const char* op = "conv2d_threshold";
  const Joined in = join(op, bits, size);
  Conv2dParams p = conv2d_layer(op, in, out_channels, kernel_size, stride, padding, dilation, pad_value);
  return run_conv(op, p, weight, &t);
}

Tensor conv_transpose2d_cpu(Images bits, const Tensor& weight, int64_t out_channels, Pair kernel_size,
                            Pair stride, Pair padding, Pair output_padding, Pair dilation, Pair size) {
  const char* op = "conv_transpose2d";
  const Joined in = join(op, bits, size);
  Conv2dParams p =
      transposed_layer(op, in, out_channels, kernel_size, stride, padding, output_padding, dilation);
  return run_conv(op, p, weight, nullptr);
}

Tensor conv_transpose2d_threshold_cpu(Images bits, const Tensor& weight, const Tensor& threshold,
                                      const Tensor& flip, int64_t out_channels, Pair kernel_size, Pair stride,
                                      Pair padding, Pair output_padding, Pair dilation, Pair size) {
  const Threshold t{threshold, flip};
  const char* op = "conv_transpose2d_threshold";
  const Joined in = join(op, bits, size);
  Conv2dParams p =
      transposed_layer(op, in, out_channels, kernel_size, stride, padding, output_padding, dilation);
  return run_conv(op, p, weight, &t);
}

FloatAndBits conv2d_stream_cpu(Images bits, const Tensor& weight, const Tensor& affine,
                               std::vector<Tensor> residual, std::optional<Tensor> threshold,
                               int64_t out_channels, Pair kernel_size, Pair stride, Pair padding,
                               Pair dilation, int64_t pad_value, int64_t pool, int64_t upsample, bool relu,
                               Pair size, std::optional<Tensor> head, std::optional<Tensor> head_bias,
                               std::optional<ScalarType> dtype) {
  const char* op = "conv2d_stream";
  const Joined in = join(op, bits, size);
  Conv2dParams p = conv2d_layer(op, in, out_channels, kernel_size, stride, padding, dilation, pad_value);
  return run_stream(op, p, weight,
                    {affine, residual, threshold, pool, upsample, relu, head, head_bias, dtype});
}

FloatAndBits conv_transpose2d_stream_cpu(Images bits, const Tensor& weight, const Tensor& affine,
                                         std::vector<Tensor> residual, std::optional<Tensor> threshold,
                                         int64_t out_channels, Pair kernel_size, Pair stride, Pair padding,
                                         Pair output_padding, Pair dilation, int64_t pool, int64_t upsample,
                                         bool relu, Pair size, std::optional<ScalarType> dtype) {
  const char* op = "conv_transpose2d_stream";
  const Joined in = join(op, bits, size);
  Conv2dParams p =
      transposed_layer(op, in, out_channels, kernel_size, stride, padding, output_padding, dilation);
  return run_stream(op, p, weight,
                    {affine, residual, threshold, pool, upsample, relu, std::nullopt, std::nullopt, dtype});
}

Tensor max_pool2d_cpu(const Tensor& bits, Pair kernel_size, Pair stride, Pair padding, Pair dilation,
                      bool ceil_mode) {
  const char* op = "max_pool2d";
  MaxPool2dParams p{};
  p.input = image(op, bits);
  read_layer(op, kernel_size, stride, padding, dilation, p.kernel, p.stride, p.padding, p.dilation);
  p.output = {
      pool_size("height", p.input.height, p.kernel.h, p.stride.h, p.padding.h, p.dilation.h, ceil_mode),
      pool_size("width", p.input.width, p.kernel.w, p.stride.w, p.padding.w, p.dilation.w, ceil_mode)};
  Tensor out = empty_int({p.input.batch, p.output.h, p.output.w, p.input.words});
  p.bits = static_cast<Word*>(out.mutable_data_ptr());
  max_pool2d(p);
  return out;
}

}  // namespace
}  // namespace mbu

STABLE_TORCH_LIBRARY_IMPL(mbu, CPU, m) {
#define MBU_OP(result, name, arguments) m.impl(#name, TORCH_BOX(&mbu::name##_cpu));
  MBU_OPS(MBU_OP)
#undef MBU_OP
}
