// A convolution on the emulator, for Python: plans it as the library does, lays out its weight, runs a
// kernel.
#include <deque>
#include <string>

#include "cuda/plan.h"
#include "guarded.h"
#include "registry.h"

using namespace mbu::cuda;

namespace {

struct Residual {
  const void* data;
  int64_t bytes, kind, channels, stride_n, stride_c, stride_h, stride_w;
};

// Mirrored by ConvCase in tests/ops/cuda/cases.py. A null output is one that the kernel does not write.
struct ConvCase {
  int64_t batch, height, width, words[2], pixel[2], upsample[2];  // pixel: words from one pixel to the next
  int64_t kernel[2], stride[2], padding[2], dilation[2], output[2];
  int64_t out_channels, transposed, zero_padding, planes;
  const void *source[2], *weight;
  const void *threshold, *flip;
  void* bits;
  void* stream;
  int64_t stream_kind, steps;
  const void* affine;
  int64_t residuals, residual_channels, pool, residual_upsample, relu;
  Residual residual[kMaxResidual];
  int64_t classes;  // 0: no head
  const void *head, *head_bias;
  void* logits;  // the stream is not stored then
  int64_t late_copies, warps_backwards;
};

DeviceLayout layout_of(const std::string& kernel) {
  if (kernel.find("_int8") != std::string::npos) return DeviceLayout::int8;
  return kernel.find("_and") != std::string::npos ? DeviceLayout::and_popc : DeviceLayout::xor_popc;
}

std::string run(const char* name, const ConvCase& c) {
  const emu::Kernel* kernel = emu::find_kernel(name);
  if (!kernel) return std::string("no kernel ") + name;
  emu::forget_global();
  std::deque<emu::Guarded> memory;
  const auto input = [&](const void* from, int64_t bytes) -> void* {
    return from ? memory.emplace_back(from, static_cast<uint64_t>(bytes), false).as<void>() : nullptr;
  };
  const auto result = [&](void* like, int64_t bytes) -> emu::Guarded* {
    return like ? &memory.emplace_back(like, static_cast<uint64_t>(bytes), true) : nullptr;
  };

  Layer layer{c.batch,
              c.height,
              c.width,
              {c.words[0], c.words[1]},
              {c.upsample[0], c.upsample[1]},
              c.kernel[0],
              c.kernel[1],
              c.stride[0],
              c.stride[1],
              c.padding[0],
              c.padding[1],
              c.dilation[0],
              c.dilation[1],
              c.output[0],
              c.output[1],
              c.out_channels,
              c.transposed != 0,
              c.zero_padding != 0,
              false};
  const DeviceLayout layout = layout_of(name);
  const DeviceWeight weight{layout, c.out_channels, c.kernel[0] * c.kernel[1], c.words[0] + c.words[1]};
  layer.binary = is_binary(static_cast<const mbu::Word*>(c.weight), weight);
  std::string laid_out(static_cast<size_t>(weight.size()) * 4, '\0');
  lay_out_weight(static_cast<const mbu::Word*>(c.weight), weight,
                 reinterpret_cast<int32_t*>(laid_out.data()));
  const auto* device = static_cast<const int32_t*>(input(laid_out.data(), weight.size() * 4));

  Conv2dParams p{};
  if (const char* reason = plan_conv2d(layer, layout, device, p)) return reason;
  for (int i = 0; i < 2; ++i) {
    if (!c.words[i]) continue;
    const int64_t height = c.height / c.upsample[i], width = c.width / c.upsample[i];
    ConvSource& source = p.source[i];
    source.stride_w = c.pixel[i];
    source.stride_h = width * c.pixel[i];
    source.stride_n = height * source.stride_h;
    const int64_t words = c.batch * source.stride_n - (c.pixel[i] - c.words[i]);
    source.data = static_cast<const mbu::Word*>(input(c.source[i], words * 4));
  }
  const int64_t pixels = c.batch * c.output[0] * c.output[1], out_words = mbu::words_of(c.out_channels);
  p.planes = static_cast<int32_t>(c.planes);
  emu::Guarded* bits = result(c.bits, pixels * c.planes * out_words * 4);
  p.bits = bits ? bits->as<mbu::Word>() : nullptr;
  constexpr int64_t kSizes[] = {4, 2, 2, 1};  // of a FloatKind
  emu::Guarded* stream = result(c.stream, pixels * c.out_channels * kSizes[c.stream_kind]);
  emu::Guarded* logits = result(c.logits, pixels * c.classes * 4);
  const void* threshold = input(c.threshold, c.planes * c.out_channels * 4);
  if (stream || logits) {
    StreamParams& s = p.stream;
    s.output = stream ? stream->as<void>() : nullptr;
    s.head = static_cast<const float*>(input(c.head, c.classes * c.out_channels * 4));
    s.head_bias = static_cast<const float*>(input(c.head_bias, c.classes * 4));
    s.classes = static_cast<int32_t>(c.classes);
    s.logits = logits ? logits->as<float>() : nullptr;
    s.kind = static_cast<FloatKind>(c.stream_kind);
    s.steps = static_cast<int32_t>(c.steps);
    s.affine = static_cast<const float*>(input(c.affine, c.steps * 2 * c.out_channels * 4));
    s.threshold = static_cast<const float*>(threshold);
    s.residuals = static_cast<int32_t>(c.residuals);
    s.residual_channels = static_cast<int32_t>(c.residual_channels);
    s.pool = static_cast<int32_t>(c.pool);
    s.upsample = divide_by(c.residual_upsample);
    s.relu = static_cast<int32_t>(c.relu);
    for (int64_t i = 0; i < c.residuals; ++i) {
      const Residual& r = c.residual[i];
      s.residual[i] = {input(r.data, r.bytes),
                       static_cast<FloatKind>(r.kind),
                       static_cast<int32_t>(r.channels),
                       r.stride_n,
                       r.stride_c,
                       r.stride_h,
                       r.stride_w};
    }
  } else {
    p.threshold = static_cast<const int32_t*>(threshold);
    p.flip = static_cast<const mbu::Word*>(input(c.flip, c.planes * out_words * 4));
  }

  const Grid grid = conv2d_grid(p, kernel->tile_pixels, kernel->tile_channels);
  const std::string error =
      emu::run({[&] { kernel->call(&p); }, {grid.x, grid.y, grid.z}, kernel->threads, kernel->shared_bytes},
               {c.late_copies != 0, c.warps_backwards != 0, emu::loads_ahead(name)});
  if (bits) bits->copy_to(c.bits);
  if (stream) stream->copy_to(c.stream);
  if (logits) logits->copy_to(c.logits);
  return error;
}

}  // namespace

extern "C" const char* emulate_conv2d(const char* kernel, const ConvCase* given) {
  static std::string error;
  error = run(kernel, *given);
  return error.c_str();
}
