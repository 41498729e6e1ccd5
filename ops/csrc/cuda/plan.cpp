#include "cuda/plan.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace mbu::cuda {
namespace {

constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();

// The phases of one axis; cpu/conv2d/axis.cpp derives them. Returns how many, or 0 where there are too many.
// A transposed output o = phase + j * stride reads input j + (phase + padding - k * dilation) / stride for
// the k where that division is exact: every (stride / gcd)th of them.
int32_t plan_axis(int64_t output, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                  bool transposed, AxisPhase* phases) {
  const int64_t count = transposed ? std::min(stride, output) : 1;
  if (count > kMaxPhases) return 0;
  for (int64_t phase = 0; phase < count; ++phase) {
    int64_t first = 0, step = 1, taps = kernel, offset = -padding, offset_step = dilation, outputs = output;
    if (transposed) {
      outputs = (output - phase + stride - 1) / stride;
      const auto meets = [&](int64_t k) { return (phase + padding - k * dilation) % stride == 0; };
      while (first < kernel && !meets(first)) ++first;
      for (step = 1; first + step < kernel && !meets(first + step);) ++step;
      taps = first < kernel ? (kernel - 1 - first) / step + 1 : 0;
      offset = taps ? (phase + padding - first * dilation) / stride : 0;
      offset_step = -step * dilation / stride;
    }
    phases[phase] = {static_cast<int32_t>(outputs),
                     static_cast<int32_t>(taps),
                     static_cast<int32_t>(offset),
                     static_cast<int32_t>(offset_step),
                     static_cast<int32_t>(first),
                     static_cast<int32_t>(step),
                     divide_by(outputs),
                     divide_by(std::max<int64_t>(taps, 1))};
  }
  return static_cast<int32_t>(count);
}

}  // namespace

// With s = ceil(log2 d) and m = ceil(2^(31 + s) / d), (x * m) >> (31 + s) is x / d for every x below 2^31.
Divide divide_by(int64_t divisor) {
  if (divisor == 1) return {1, 0, 0};
  const uint32_t log = static_cast<uint32_t>(std::bit_width(static_cast<uint64_t>(divisor - 1)));
  const auto d = static_cast<uint64_t>(divisor);
  return {static_cast<uint32_t>(divisor), static_cast<uint32_t>(((uint64_t{1} << (31 + log)) + d - 1) / d),
          log - 1};
}

const char* plan_conv2d(const Layer& l, DeviceLayout layout, const int32_t* weight, Conv2dParams& p) {
  const int64_t words = l.words[0] + l.words[1], taps = l.kernel_h * l.kernel_w;
  // Places of a pixel's first tap are 16 bits each in a kernel's registers.
  constexpr int64_t kLargestSide = 32767;
  const auto reach = [](int64_t size, int64_t kernel, int64_t dilation, int64_t padding) {
    return size + padding + kernel * dilation;
  };
  if (reach(l.height, l.kernel_h, l.dilation_h, l.padding_h) > kLargestSide ||
      reach(l.width, l.kernel_w, l.dilation_w, l.padding_w) > kLargestSide)
    return "the image with its padding is larger than 32767 pixels";
  if (l.batch * l.out_height * l.out_width > kLargest) return "more than 2^31 output pixels";
  if (taps * words * kWordBits > kLargest / 2 || taps * words * words_of(l.out_channels) > kLargest / 8)
    return "more weights than 32-bit indices reach";

  p.batch = static_cast<int32_t>(l.batch);
  p.height = static_cast<int32_t>(l.height);
  p.width = static_cast<int32_t>(l.width);
  p.words = static_cast<int32_t>(words);
  p.by_words = divide_by(words);
  for (int i = 0; i < 2; ++i) {
    p.source[i].words = static_cast<int32_t>(l.words[i]);
    p.source[i].upsample = divide_by(std::max<int64_t>(l.upsample[i], 1));
  }
  p.step_h = static_cast<int32_t>(l.transposed ? 1 : l.stride_h);
  p.step_w = static_cast<int32_t>(l.transposed ? 1 : l.stride_w);
  p.out_step_h = static_cast<int32_t>(l.transposed ? l.stride_h : 1);
  p.out_step_w = static_cast<int32_t>(l.transposed ? l.stride_w : 1);
  p.phases_h =
      plan_axis(l.out_height, l.kernel_h, l.stride_h, l.padding_h, l.dilation_h, l.transposed, p.rows);
  p.phases_w =
      plan_axis(l.out_width, l.kernel_w, l.stride_w, l.padding_w, l.dilation_w, l.transposed, p.columns);
  if (p.phases_h == 0 || p.phases_w == 0) return "a transposed convolution with a stride above 8";

  const DeviceWeight w{layout, l.out_channels, taps, words};
  p.out_height = static_cast<int32_t>(l.out_height);
  p.out_width = static_cast<int32_t>(l.out_width);
  p.out_channels = static_cast<int32_t>(l.out_channels);
  p.padded_channels = static_cast<int32_t>(w.padded_channels());
  p.out_words = static_cast<int32_t>(words_of(l.out_channels));
  p.kernel_w = static_cast<int32_t>(l.kernel_w);
  p.taps = static_cast<int32_t>(taps);
  p.zero_padding = l.zero_padding;
  p.weight = reinterpret_cast<const Word*>(weight + w.data());
  p.weight_row = static_cast<int32_t>(w.row());
  p.weight_planes = l.binary && layout != DeviceLayout::int8 ? 1 : 2;
  p.scale = scale_of(layout, p.weight_planes);
  p.base = weight + w.base();
  p.weight_sum = weight + w.weight_sum();
  return nullptr;
}

int vector_words(const Layer& layer, int64_t aligned_words) {
  for (int words : {4, 2})
    if (aligned_words % words == 0 && layer.words[0] % words == 0 && layer.words[1] % words == 0)
      return words;
  return 1;
}

Grid conv2d_grid(const Conv2dParams& p, int tile_pixels, int tile_channels) {
  // The first phase of an axis has the most outputs.
  const int64_t pixels = int64_t{p.batch} * p.rows[0].outputs * p.columns[0].outputs;
  return {static_cast<uint32_t>((pixels + tile_pixels - 1) / tile_pixels),
          static_cast<uint32_t>((p.out_channels + tile_channels - 1) / tile_channels),
          static_cast<uint32_t>(p.phases_h * p.phases_w)};
}

}  // namespace mbu::cuda
