// From an operation's checked arguments to what a CUDA kernel is given.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "cuda/choose.h"
#include "cuda/plan_gemm.h"
#include "torch/fallback.h"
#include "torch/ops.h"

namespace mbu {

// An error of the layer, which no kernel takes.
inline void require_kernel(bool possible, const char* why) {
  if (!possible) throw NoKernel{why};
}

// The power of two up to 4 that an image's address and strides are multiples of, in words.
inline int64_t alignment(const PackedImage& image) {
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(image.data) / sizeof(Word));
  for (int64_t words : {4, 2})
    if ((address | image.stride_n | image.stride_h | image.stride_w) % words == 0) return words;
  return 1;
}

inline cuda::FloatKind kind_of(FloatType type) {
  switch (type) {
    case FloatType::bf16:
      return cuda::FloatKind::bf16;
    case FloatType::f16:
      return cuda::FloatKind::f16;
    case FloatType::fixed8:
      return cuda::FloatKind::fixed8;
    default:
      return cuda::FloatKind::f32;
  }
}

// The float result: the stream's, or dot products as they are.
inline void fill_stream(const Conv2dParams& p, cuda::Conv2dParams& c) {
  cuda::StreamParams& s = c.stream;
  s.kind = cuda::FloatKind::f32;
  s.pool = 1;
  s.upsample = cuda::divide_by(1);
  s.output = p.sums;
  if (!p.stream) return;
  const Stream& from = *p.stream;
  require_kernel(from.residuals <= cuda::kMaxResidual, "more tensors in the residual than kernels take");
  s.kind = kind_of(from.type);
  s.output = from.output;
  s.steps = static_cast<int32_t>(from.steps);
  s.affine = from.affine;
  s.threshold = from.threshold;
  s.residuals = static_cast<int32_t>(from.residuals);
  s.residual_channels = static_cast<int32_t>(from.residual_channels);
  for (int64_t i = 0; i < from.residuals; ++i) {
    const StreamSource& r = from.residual[i];
    s.residual[i] = {r.data,     kind_of(r.type), static_cast<int32_t>(r.channels), r.stride_n, r.stride_c,
                     r.stride_h, r.stride_w};
  }
  s.pool = static_cast<int32_t>(from.pool);
  s.upsample = cuda::divide_by(from.upsample);
  s.relu = from.relu;
  s.head = from.head;
  s.head_bias = from.head_bias;
  s.classes = static_cast<int32_t>(from.classes);
  s.logits = from.logits;
  c.planes = static_cast<int32_t>(from.planes);
  c.bits = from.bits;
}

// The first convolution.
inline cuda::StemParams stem_of(const StemParams& p) {
  const auto narrow = [](int64_t value) {
    require_kernel(value <= std::numeric_limits<int32_t>::max(),
                   "a first convolution of more than 2^31 values");
    return static_cast<int32_t>(value);
  };
  cuda::StemParams c{};
  c.input = p.input;
  c.channels = narrow(p.channels), c.height = narrow(p.height), c.width = narrow(p.width);
  c.stride_n = p.stride_n, c.stride_c = p.stride_c, c.stride_h = p.stride_h, c.stride_w = p.stride_w;
  c.weight = p.weight;
  c.out_channels = narrow(p.out_channels);
  c.kernel_h = narrow(p.kernel.h), c.kernel_w = narrow(p.kernel.w);
  c.stride_y = narrow(p.stride.h), c.stride_x = narrow(p.stride.w);
  c.padding_h = narrow(p.padding.h), c.padding_w = narrow(p.padding.w);
  c.dilation_h = narrow(p.dilation.h), c.dilation_w = narrow(p.dilation.w);
  c.stream.output = p.stream.output;
  c.stream.kind = kind_of(p.stream.type);
  c.stream.steps = narrow(p.stream.steps);
  c.stream.affine = p.stream.affine;
  c.stream.threshold = p.stream.threshold;
  c.stream.relu = p.stream.relu;
  c.flip = p.flip;
  c.planes = narrow(p.stream.planes);
  c.bits = p.stream.bits;
  return c;
}

// How often each pixel of a part is repeated on either side; 0 where that is no whole number.
inline int64_t factor_of(const PackedImage& part, const PackedImage& whole) {
  const int64_t factor = part.height ? whole.height / part.height : 1;
  return part.height * factor == whole.height && part.width * factor == whole.width ? factor : 0;
}

// Whether a convolution reads its joined images where they lie: two, each enlarged by a whole factor. Torch's
// nearest, which rounds, divides by every factor up to 40 as integers do, and not by 41.
inline bool reads_in_place(const Conv2dParams& p) {
  constexpr int64_t kMostSources = 2, kLargestFactor = 40;
  const auto fits = [&](const PackedImage& part) {
    const int64_t factor = factor_of(part, p.input);
    return factor >= 1 && factor <= kLargestFactor;
  };
  return p.parts <= kMostSources && std::all_of(p.part, p.part + p.parts, fits);
}

// The images that such a convolution joins.
inline std::vector<PackedImage> sources_of(const Conv2dParams& p, cuda::Layer& layer) {
  std::vector<PackedImage> sources{p.input};
  if (p.parts > 0) sources.assign(p.part, p.part + p.parts);
  for (size_t i = 0; i < sources.size(); ++i) {
    layer.words[i] = sources[i].words;
    layer.upsample[i] = p.parts > 0 ? factor_of(sources[i], p.input) : 1;
  }
  return sources;
}

// A 1x1 convolution of one image, or mbu::gemm, as a product of rows by a kernel of csrc/cuda/generate.py;
// false where there is none for it.
inline bool plan_product(const Conv2dParams& p, cuda::DeviceLayout layout, cuda::GemmParams& c) {
  const PackedImage& in = p.input;
  const auto is = [](Extent extent, int64_t value) { return extent.h == value && extent.w == value; };
  const bool rows = is(p.kernel, 1) && is(p.stride, 1) && is(p.padding, 0) && !p.parts && !p.transposed &&
                    !p.stream && (in.height == 1 || in.stride_h == in.width * in.stride_w) &&
                    (in.batch == 1 || in.stride_n == in.height * in.width * in.stride_w);
  if (!rows) return false;
  const cuda::Product product{in.batch * in.height * in.width, in.words, in.stride_w, p.out_channels,
                              p.weight.binary};
  if (alignment(in) < 4 || !cuda::fills_stages(in.words, in.words, layout, p.weight.binary) ||
      cuda::plan_gemm(product, layout, p.weight.data, c))
    return false;
  c.input = in.data;
  c.bits = p.bits;
  c.planes = static_cast<int32_t>(p.planes);
  c.threshold = p.threshold;
  c.flip = p.flip;
  c.sums = p.sums;
  return true;
}

inline const char* name_of(FloatType type) {
  switch (type) {
    case FloatType::bf16:
      return "bfloat16";
    case FloatType::f16:
      return "float16";
    case FloatType::fixed8:
      return "int8";
    default:
      return "float32";
  }
}

// A stream in the text of a layer. Planar: neighbouring channels lie apart in memory.
inline std::string text_of(const Stream& s) {
  std::string text =
      ", " + std::to_string(s.steps) + " steps to " + name_of(s.type) + (s.relu ? ", relu" : "");
  for (int64_t i = 0; i < s.residuals; ++i) {
    const StreamSource& r = s.residual[i];
    text += (i ? " + " : ", residual ") + std::to_string(r.channels) + (r.stride_c == 1 ? " " : " planar ") +
            name_of(r.type);
  }
  if (s.residuals) text += " pool " + std::to_string(s.pool) + " upsample " + std::to_string(s.upsample);
  if (s.head) return text + ", head of " + std::to_string(s.classes) + " classes";
  return text + ", " + std::to_string(s.planes) + " bits";
}

// What the time of a layer depends on, for cuda/search.h.
inline std::string text_of(const cuda::Layer& l, const Conv2dParams& p) {
  const auto pair = [](int64_t a, int64_t b) { return std::to_string(a) + "x" + std::to_string(b); };
  std::string text = std::string(l.transposed ? "transposed " : "") + std::to_string(l.batch) + "x" +
                     pair(l.height, l.width) + ", " + std::to_string(l.words[0] * kWordBits);
  if (l.words[1]) text.append("+").append(std::to_string(l.words[1] * kWordBits));
  text += " to " + std::to_string(l.out_channels) + " channels" + (l.binary ? " without zeros" : "") +
          ", kernel " + pair(l.kernel_h, l.kernel_w) + " stride " + pair(l.stride_h, l.stride_w) +
          " padding " + pair(l.padding_h, l.padding_w) + (l.zero_padding ? "" : " of -1") + " dilation " +
          pair(l.dilation_h, l.dilation_w) + " upsample " + pair(l.upsample[0], l.upsample[1]);
  if (p.bits) return text + ", " + std::to_string(p.planes) + " bits";
  return text + (p.stream ? text_of(*p.stream) : ", sums");
}

}  // namespace mbu
