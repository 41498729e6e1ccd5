// The operations on CUDA tensors: on the kernels of csrc/cuda where they have a route to the card, else on
// torch's own operations.
#include <algorithm>
#include <array>

#include "cuda/choose.h"
#include "cuda/plan_flat.h"
#include "cuda/search.h"
#include "torch/check.h"
#include "torch/context.h"
#include "torch/fallback.h"
#include "torch/images.h"
#include "torch/ops.h"
#include "torch/place.h"
#include "torch/shapes.h"
#include "torch/to_kernel.h"

#ifndef MBU_LIBRARY  // tests register the same code elsewhere
#define MBU_LIBRARY mbu
#define MBU_DEVICE CUDA
#endif

namespace mbu {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

bool is_here(const Tensor& tensor) {
  return on_gpu(tensor) && device_of(tensor) == current_device();
}
PlaceNames here() {
  return {"the GPU of this call", "to(bits.device)"};
}

const torch::stable::Device kPlace = gpu();

Tensor empty_int(std::initializer_list<int64_t> sizes) {
  return torch::stable::empty(sizes, ScalarType::Int, std::nullopt, kPlace);
}

// [N, C, H, W] in channels_last memory.
Tensor empty_nhwc(std::initializer_list<int64_t> sizes, ScalarType type) {
  return torch::stable::empty(sizes, type, std::nullopt, kPlace, std::nullopt, MemoryFormat::ChannelsLast);
}

// A device with the kernels that it runs.
struct Reader {
  int device;
  const cuda::Family* family;
};

const Reader& reader() {
  thread_local Reader found;
  const char* why;
  found.device = current_device();
  found.family = cuda::family_of(found.device, &why);
  if (!found.family) throw NoKernel{why};
  return found;
}

void start(cuda::Kernel kernel, cuda::Grid grid, const void* params) {
  const int device = current_device();
  const cuda::Route& route = cuda::route(device, kernel);
  if (!route.function) throw NoKernel{route.text};
  cuda::launch(device, kernel, grid, params, current_stream(device));
}

// The layout shows in a weight's size, so that it can be checked without reading device memory: sizes are
// multiples of 8, and the layout's number is added, and 4 where the weight is binary.
int64_t stored_words(const cuda::DeviceWeight& weight, bool binary) {
  return weight.size() + 1 + static_cast<int64_t>(weight.layout) + (binary ? 4 : 0);
}

Tensor tile_planes(const Tensor& planes, int64_t out_channels, Extent kernel, int64_t channel_words) {
  const cuda::DeviceWeight weight{reader().family->layout, out_channels, kernel.h * kernel.w, channel_words};
  Tensor source = torch::stable::empty({planes.numel()}, ScalarType::Int);
  torch::stable::copy_(source, torch::stable::reshape(planes, {planes.numel()}));
  const auto* from = static_cast<const Word*>(source.const_data_ptr());
  const int64_t stored = stored_words(weight, cuda::is_binary(from, weight));
  Tensor made = torch::stable::empty({stored}, ScalarType::Int);
  cuda::lay_out_weight(from, weight, made.mutable_data_ptr<int32_t>());
  Tensor out = torch::stable::empty({stored}, ScalarType::Int, std::nullopt, kPlace);
  torch::stable::copy_(out, made);
  return out;
}

// A weight in device memory: its numbers cannot be read here, its size can.
TiledWeight tiled_weight(const char* op, const Tensor& weight, int64_t out_channels, Extent kernel,
                         int64_t words, const Reader& reader) {
  check_here(op, "weight", weight);
  const cuda::DeviceWeight wanted{reader.family->layout, out_channels, kernel.h * kernel.w, words};
  const bool binary = weight.dim() == 1 && weight.numel() == stored_words(wanted, true);
  MBU_CHECK(
      weight.scalar_type() == ScalarType::Int && weight.dim() == 1 && weight.is_contiguous() &&
          weight.numel() == stored_words(wanted, binary),
      op, ": weight has ", weight.numel(), " words; a weight of ", out_channels, " output channels, kernel [",
      kernel.h, ", ", kernel.w, "] and ", words, " channel words has ", stored_words(wanted, false),
      " in the layout of this GPU (", reader.family->name,
      "); tile the planes again on this device (mbu_ops.functional.tile_weight, PackedModel.tile_weights)");
  return {static_cast<const int32_t*>(weight.const_data_ptr()), binary};
}

void run(const PackParams& p) {
  cuda::PackParams c{};
  c.input = p.input;
  c.kind = kind_of(p.type);
  c.channels = static_cast<int32_t>(p.channels);
  c.stride_n = p.stride_n;
  c.stride_c = p.stride_c;
  c.stride_h = p.stride_h;
  c.stride_w = p.stride_w;
  c.threshold = p.threshold;
  c.gate = p.gate;
  c.flip = p.flip;
  c.planes = static_cast<int32_t>(p.planes);
  c.output = p.output;
  if (p.batch * p.channels * p.planes * p.height * p.width == 0) return;
  const uint32_t blocks = cuda::plan_pack({p.batch, p.height, p.width}, c);
  require_kernel(blocks, "more than 2^31 words");
  start(p.stride_c == 1 ? cuda::Kernel::pack_channels__sm75 : cuda::Kernel::pack_pixels__sm75, {blocks, 1, 1},
        &c);
}

void run(const UnpackParams& p) {
  cuda::UnpackParams c{};
  c.input = p.input.data;
  c.stride_n = p.input.stride_n;
  c.stride_h = p.input.stride_h;
  c.stride_w = p.input.stride_w;
  c.output = p.output;
  c.channels = static_cast<int32_t>(p.channels);
  if (p.input.batch * p.input.height * p.input.width * p.channels == 0) return;
  const uint32_t blocks = cuda::plan_unpack({p.input.batch, p.input.height, p.input.width}, c);
  require_kernel(blocks, "more than 2^31 values");
  start(cuda::Kernel::unpack__sm75, {blocks, 1, 1}, &c);
}

void run(const JoinBitsParams& p) {
  cuda::JoinBitsParams c{};
  require_kernel(p.parts <= cuda::kMaxJoined, "more parts to join than a launch lists");
  for (int64_t i = 0; i < p.parts; ++i) {
    const PackedImage& part = p.part[i];
    c.part[i] = {part.data,
                 part.stride_n,
                 part.stride_h,
                 part.stride_w,
                 static_cast<int32_t>(p.channels[i]),
                 static_cast<int32_t>(part.height),
                 static_cast<int32_t>(part.width),
                 0,
                 0};
  }
  c.parts = static_cast<int32_t>(p.parts);
  c.output = p.output;
  if (p.batch * p.height * p.width * p.words == 0) return;
  const uint32_t blocks = cuda::plan_join_bits({p.batch, p.height, p.width}, p.words, c);
  require_kernel(blocks, "more than 2^31 words");
  start(cuda::Kernel::join_bits__sm75, {blocks, 1, 1}, &c);
}

void run(const MaxPool2dParams& p) {
  cuda::MaxPool2dParams c{};
  c.input = p.input.data;
  c.stride_n = p.input.stride_n;
  c.stride_h = p.input.stride_h;
  c.stride_w = p.input.stride_w;
  c.output = p.bits;
  c.height = static_cast<int32_t>(p.input.height);
  c.width = static_cast<int32_t>(p.input.width);
  c.kernel_h = static_cast<int32_t>(p.kernel.h);
  c.kernel_w = static_cast<int32_t>(p.kernel.w);
  c.stride_y = static_cast<int32_t>(p.stride.h);
  c.stride_x = static_cast<int32_t>(p.stride.w);
  c.padding_h = static_cast<int32_t>(p.padding.h);
  c.padding_w = static_cast<int32_t>(p.padding.w);
  c.dilation_h = static_cast<int32_t>(p.dilation.h);
  c.dilation_w = static_cast<int32_t>(p.dilation.w);
  if (p.input.batch * p.output.h * p.output.w * p.input.words == 0) return;
  const bool wide = p.input.words % 4 == 0 && alignment(p.input) == 4;
  const uint32_t blocks =
      cuda::plan_max_pool2d({p.input.batch, p.output.h, p.output.w}, p.input.words, wide ? 4 : 1, c);
  require_kernel(blocks, "more than 2^31 words");
  start(wide ? cuda::Kernel::max_pool2d_v4__sm75 : cuda::Kernel::max_pool2d_v1__sm75, {blocks, 1, 1}, &c);
}

// logits = head * y + head_bias by torch, from the stream y of more channels than a block has.
void project(const Stream& stream, Tensor y) {
  const torch::stable::Device device = y.device();
  const int64_t n = y.size(0), channels = y.size(1), height = y.size(2), width = y.size(3),
                k = stream.classes;
  const auto view = [&](const float* data, std::initializer_list<int64_t> sizes,
                        std::initializer_list<int64_t> strides) {
    return torch::stable::from_blob(const_cast<float*>(data), sizes, strides, device, ScalarType::Float);
  };
  std::optional<Tensor> bias;
  if (stream.head_bias) bias = view(stream.head_bias, {k}, {1});
  const Tensor pixels = view(y.const_data_ptr<float>(), {n * height * width, channels}, {channels, 1});
  std::array<StableIValue, 3> stack{
      torch::stable::detail::from(pixels),
      torch::stable::detail::from(view(stream.head, {k, channels}, {channels, 1})),
      torch::stable::detail::from(bias)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::linear", "", stack.data(), TORCH_ABI_VERSION));
  Tensor logits = view(stream.logits, {n * height * width, k}, {k, 1});
  torch::stable::copy_(logits, torch::stable::detail::to<Tensor>(stack[0]));
}

// The parts of an input as one image, for which every part is whole words; each is brought to the input's
// size.
Tensor join_parts(const Conv2dParams& p) {
  const PackedImage& in = p.input;
  std::vector<int64_t> channels;
  for (int64_t i = 0; i < p.parts; ++i) channels.push_back(p.part[i].words * kWordBits);
  Tensor out = empty_int({in.batch, in.height, in.width, in.words});
  run(JoinBitsParams{p.part, channels.data(), p.parts, in.batch, in.height, in.width, in.words,
                     static_cast<Word*>(out.mutable_data_ptr())});
  return out;
}

void run(const Conv2dParams& p, const Reader& reader) {
  if (p.stream && p.stream->head && p.out_channels > cuda::kMostBeforeHead) {
    Tensor y =
        torch::stable::empty({p.input.batch, p.out_channels, p.output.h, p.output.w}, ScalarType::Float,
                             std::nullopt, kPlace, std::nullopt, MemoryFormat::ChannelsLast);
    Stream stream = *p.stream;
    stream.head = nullptr;
    stream.output = y.mutable_data_ptr<float>();
    Conv2dParams before = p;
    before.stream = &stream;
    run(before, reader);
    return project(*p.stream, y);
  }
  if (p.input.batch * p.output.h * p.output.w * p.out_channels == 0) return;
  if (!reads_in_place(p)) {
    const Tensor joined = join_parts(p);
    Conv2dParams whole = p;
    whole.input = image("conv2d", joined);
    whole.parts = 0;
    return run(whole, reader);
  }
  std::vector<cuda::Candidate> candidates;
  cuda::GemmParams product{};
  if (plan_product(p, reader.family->layout, product))
    cuda::add_gemms(reader.device, *reader.family, product, candidates);
  cuda::Layer layer{p.input.batch,  p.input.height, p.input.width,  {0, 0},         {1, 1},
                    p.kernel.h,     p.kernel.w,     p.stride.h,     p.stride.w,     p.padding.h,
                    p.padding.w,    p.dilation.h,   p.dilation.w,   p.output.h,     p.output.w,
                    p.out_channels, p.transposed,   p.zero_padding, p.weight.binary};
  const std::vector<PackedImage> sources = sources_of(p, layer);
  cuda::Conv2dParams c{};
  const char* why = cuda::plan_conv2d(layer, reader.family->layout, p.weight.data, c);
  if (why && candidates.empty()) throw NoKernel{why};
  int64_t aligned = 4;
  for (size_t i = 0; i < sources.size(); ++i) {
    c.source[i].data = sources[i].data;
    c.source[i].stride_n = sources[i].stride_n;
    c.source[i].stride_h = sources[i].stride_h;
    c.source[i].stride_w = sources[i].stride_w;
    aligned = std::min(aligned, alignment(sources[i]));
  }
  const bool to_bits = p.bits != nullptr;
  if (to_bits) {
    c.bits = p.bits;
    c.planes = static_cast<int32_t>(p.planes);
    c.threshold = p.threshold;
    c.flip = p.flip;
  } else {
    fill_stream(p, c);
  }
  if (!why)
    cuda::add_conv2ds(reader.device, *reader.family, c, !to_bits, cuda::vector_words(layer, aligned),
                      candidates);
  const std::string text = cuda::searching() ? text_of(layer, p) : std::string();
  const cuda::Launch* best = cuda::choose(reader.device, text, candidates, current_stream(reader.device));
  if (!best) throw NoKernel{why ? why : "more blocks than a launch has"};
  start(best->kernel, best->grid, best->params);
}

void run(const StemParams& p) {
  if (p.batch * p.output.h * p.output.w * p.out_channels == 0) return;
  cuda::StemParams c = stem_of(p);
  const uint32_t blocks = cuda::plan_stem({p.batch, p.output.h, p.output.w}, c);
  require_kernel(blocks, "more than 2^31 values");
  start(cuda::Kernel::stem__sm75, {blocks, 1, 1}, &c);
}

Tensor head_conv2d_here(const Tensor&, const Tensor&, std::optional<Tensor>, Pair) {
  throw NoKernel{"the head has no kernel on GPUs"};
}

Tensor joined_head_here(Images, const Tensor&, std::optional<Tensor>, std::optional<Tensor>) {
  throw NoKernel{"the head has no kernel on GPUs"};
}

Tensor upsample_bilinear2d_here(const Tensor&, Pair, bool, std::optional<double>, std::optional<double>) {
  throw NoKernel{"torch's own runs on GPUs"};
}
Tensor attention_here(const Tensor&, const Tensor&, const Tensor&, double) {
  throw NoKernel{"torch's own runs on GPUs"};
}

#include "torch/operations.inc"

#include "torch/stem.inc"

#include "torch/on_device.inc"

}  // namespace
}  // namespace mbu

// Why this thread's last call fell back; valid until the next one does.
extern "C" __attribute__((visibility("default"))) const char* mbu_fallback_reason() {
  return mbu::fallback_reason.c_str();
}

STABLE_TORCH_LIBRARY_IMPL(MBU_LIBRARY, MBU_DEVICE, m) {
#define MBU_OP(result, name, arguments) \
  m.impl(#name, TORCH_BOX((&mbu::OnDevice<&mbu::name##_here, decltype(&mbu::name##_here)>::call)));
  MBU_OPS(MBU_OP)
#undef MBU_OP
}
