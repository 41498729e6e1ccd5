// conv2d and conv_transpose2d against their definitions, summed in integers one product at a time.
#include <cstdio>

#include "harness.h"

namespace cross {
namespace {

constexpr int kAllDiffer = -1, kAllMatch = -2;

struct Conv {
  int64_t n, h, w, c, oc;
  Extent kernel, stride, padding, dilation, extra;
  bool transposed, zero_padding;
  int zeros;  // of 4 weights, how many are zero; kAllDiffer or kAllMatch for the largest counts there are
  int64_t groups = 1;  // an output's weights are zero outside its group's input channels

  int64_t size(int64_t in, int64_t k, int64_t s, int64_t p, int64_t d, int64_t e) const {
    if (transposed) return (in - 1) * s - 2 * p + d * (k - 1) + e + 1;
    const int64_t span = in + 2 * p - d * (k - 1) - 1;
    return span < 0 ? 0 : span / s + 1;
  }
  Extent output() const {
    return {size(h, kernel.h, stride.h, padding.h, dilation.h, extra.h),
            size(w, kernel.w, stride.w, padding.w, dilation.w, extra.w)};
  }
};

// One sum per output: a convolution gathers, a transposed one scatters, as their definitions say.
std::vector<int32_t> dots(const Conv& l, Bits& a, const std::vector<int8_t>& weight) {
  const Extent o = l.output();
  std::vector<int32_t> sum(static_cast<size_t>(l.n * o.h * o.w * l.oc));
  auto add = [&](int64_t n, int64_t oy, int64_t ox, int64_t iy, int64_t ix, int64_t tap) {
    const bool inside = iy >= 0 && iy < l.h && ix >= 0 && ix < l.w;
    if (!inside && (l.zero_padding || l.transposed)) return;
    for (int64_t k = 0; k < l.c; ++k) {
      const int x = inside ? a.value(n, iy, ix, k) : -1;
      const int8_t* w = &weight[static_cast<size_t>((tap * l.c + k) * l.oc)];
      int32_t* row = &sum[static_cast<size_t>(((n * o.h + oy) * o.w + ox) * l.oc)];
      for (int64_t j = 0; j < l.oc; ++j) row[j] += x * w[j];
    }
  };
  const int64_t rows = l.transposed ? l.h : o.h, columns = l.transposed ? l.w : o.w;
  for (int64_t n = 0; n < l.n; ++n)
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < columns; ++x)
        for (int64_t ky = 0; ky < l.kernel.h; ++ky)
          for (int64_t kx = 0; kx < l.kernel.w; ++kx) {
            const int64_t v = y * l.stride.h - l.padding.h + ky * l.dilation.h;
            const int64_t u = x * l.stride.w - l.padding.w + kx * l.dilation.w;
            const int64_t tap = ky * l.kernel.w + kx;
            if (!l.transposed)
              add(n, y, x, v, u, tap);
            else if (v >= 0 && v < o.h && u >= 0 && u < o.w)
              add(n, v, u, y, x, tap);
          }
  return sum;
}

void check_conv(Random& r, const Conv& l) {
  const Extent o = l.output();
  Bits a(r, l.n, l.h, l.w, l.c, r.below(3), l.zeros < 0);
  const int64_t taps = l.kernel.h * l.kernel.w, words = a.words, plane = l.oc * taps * words;
  std::vector<int8_t> weight(static_cast<size_t>(taps * l.c * l.oc));
  std::vector<Word> planes(static_cast<size_t>(2 * plane));
  // Of every other layer, blocks of 32 x 32 channels of one tap are absent: some, or most.
  const int64_t absent = r.any({0, 0, 1, 3});
  std::vector<bool> blocks(static_cast<size_t>(words_of(l.oc) * taps * words));
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = r.below(4) >= absent;
  for (int64_t oc = 0; oc < l.oc; ++oc)
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t k = 0; k < l.c; ++k) {
        if (!blocks[static_cast<size_t>((oc / 32 * taps + tap) * words + k / 32)]) continue;
        if (r.below(4) < l.zeros || k / (l.c / l.groups) != oc / (l.oc / l.groups)) continue;
        const Word positive = l.zeros < 0 ? l.zeros == kAllMatch : r.bits() & 1;
        weight[static_cast<size_t>((tap * l.c + k) * l.oc + oc)] = positive ? 1 : -1;
        const auto word = static_cast<size_t>((oc * taps + tap) * words + k / 32);
        planes[word] |= positive << (k % 32);
        planes[word + static_cast<size_t>(plane)] |= Word{1} << (k % 32);
      }
  const std::vector<int32_t> sum = dots(l, a, weight);
  const Weights weights(planes.data(), l.oc, l.kernel, words);
  Conv2dParams p{};
  p.input = a.image();
  p.out_channels = l.oc;
  p.kernel = l.kernel, p.stride = l.stride, p.padding = l.padding, p.dilation = l.dilation, p.output = o;
  p.transposed = l.transposed;
  p.zero_padding = l.zero_padding || l.transposed;
  Guarded<float> floats(l.n * o.h * o.w * l.oc);
  p.sums = floats.data();
  check(floats, std::vector<float>(sum.begin(), sum.end()), [&] { weights.convolve(p); });

  p.sums = nullptr;
  check_stream(r, p, weights, sum);

  // Thresholds that are met exactly, just missed, or never.
  const int64_t out_words = words_of(l.oc);
  p.planes = 1 + r.below(3);
  std::vector<int32_t> threshold(static_cast<size_t>(p.planes * l.oc));
  std::vector<Word> flip(static_cast<size_t>(p.planes * out_words));
  for (size_t i = 0; i < threshold.size(); ++i) {
    const int64_t pixel = r.below(l.n * o.h * o.w);
    threshold[i] = sum[static_cast<size_t>(pixel * l.oc) + i % static_cast<size_t>(l.oc)] +
                   static_cast<int32_t>(r.below(2));
    if (r.below(16) == 0) threshold[i] = r.below(2) ? INT32_MAX : INT32_MIN;
  }
  for (Word& word : flip) word = r.below(2) ? static_cast<Word>(r.bits()) : 0;
  std::vector<Word> expected(static_cast<size_t>(l.n * o.h * o.w * p.planes * out_words));
  for (size_t i = 0; i < sum.size(); ++i) {
    const int64_t pixel = static_cast<int64_t>(i) / l.oc, oc = static_cast<int64_t>(i) % l.oc;
    for (int64_t t = 0; t < p.planes; ++t) {
      const bool reached = sum[i] >= threshold[static_cast<size_t>(t * l.oc + oc)];
      const bool flipped = flip[static_cast<size_t>(t * out_words + oc / 32)] >> (oc % 32) & 1;
      expected[static_cast<size_t>((pixel * p.planes + t) * out_words + oc / 32)] |= Word{reached != flipped}
                                                                                     << (oc % 32);
    }
  }
  Guarded<Word> bits(static_cast<int64_t>(expected.size()));
  p.bits = bits.data();
  p.threshold = threshold.data();
  p.flip = flip.data();
  check(bits, expected, [&] { weights.convolve(p); });
}

}  // namespace

void check_convs(Random& r) {
  std::vector<Conv> list = {
      {1, 4, 5, 1100, 20, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, false, true, 1},
      {1, 3, 3, 1024, 33, {1, 1}, {1, 1}, {0, 0}, {1, 1}, {0, 0}, false, true, kAllDiffer},
      {1, 3, 3, 1024, 33, {1, 1}, {1, 1}, {0, 0}, {1, 1}, {0, 0}, false, true, kAllMatch},
      {1, 6, 5, 130, 16, {5, 5}, {1, 1}, {2, 2}, {1, 1}, {0, 0}, false, false, kAllDiffer},
      {2, 1, 1, 64, 40, {1, 1}, {1, 1}, {0, 0}, {1, 1}, {0, 0}, false, true, 4},
      // Blocks of 4x4 outputs, whole and cut.
      {1, 16, 20, 70, 33, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, false, true, 1},
      {1, 18, 19, 64, 32, {3, 3}, {1, 1}, {1, 0}, {1, 1}, {0, 0}, false, true, kAllDiffer},
      {1, 35, 16, 33, 40, {3, 3}, {1, 1}, {0, 1}, {1, 1}, {0, 0}, false, false, kAllMatch},
  };
  while (list.size() < 160) {
    Conv l{};
    l.n = 1 + r.below(2);
    l.h = 1 + r.below(9), l.w = 1 + r.below(14);
    l.c = r.any({1, 3, 31, 32, 33, 64, 65, 96, 128, 260});
    l.oc = r.any({1, 5, 15, 16, 17, 31, 32, 33, 48, 65});
    l.kernel = {r.any({1, 2, 3, 3, 5}), r.any({1, 2, 3, 3, 5})};
    l.stride = {1 + r.below(3), 1 + r.below(3)};
    l.padding = {r.below(3), r.below(3)};
    l.dilation = {1 + r.below(2), 1 + r.below(2)};
    l.transposed = r.below(3) == 0;
    if (l.transposed) l.extra = {r.below(l.stride.h), r.below(l.stride.w)};
    l.zero_padding = r.below(2);
    l.zeros = static_cast<int>(r.below(4));
    if (r.below(4) ==
        0) {  // per group: words of its own, parts of words, more outputs than a tile, one input
      l.groups = r.any({2, 3, 4, 8});
      l.c = l.groups * r.any({1, 8, 12, 32, 40, 64});
      l.oc = l.groups * r.any({1, 4, 8, 32, 40});
    }
    const Extent o = l.output();
    const int64_t work = l.n * (l.transposed ? l.h * l.w : o.h * o.w) * l.kernel.h * l.kernel.w * l.c * l.oc;
    if (o.h > 0 && o.w > 0 && work < 250000) list.push_back(l);
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const Conv& l = list[i];
    threads = i % 2 ? 3 : 1;
    std::snprintf(current, sizeof(current), "%s %zu (%dx%dx%d -> %d, %dx%d)",
                  l.transposed ? "conv_transpose2d" : "conv2d", i, int(l.h), int(l.w), int(l.c), int(l.oc),
                  int(l.kernel.h), int(l.kernel.w));
    check_conv(r, l);
  }
}

}  // namespace cross
