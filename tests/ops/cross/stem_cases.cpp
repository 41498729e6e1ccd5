// The float stem, one product at a time in the order it promises.
#include <cmath>
#include <cstdio>

#include "harness.h"

namespace cross {
namespace {

float any_float(Random& r) {
  return static_cast<float>(r.below(1 << 20) - (1 << 19)) / static_cast<float>(1 << 17);
}

void check_stem(Random& r) {
  StemParams p{};
  p.batch = 1 + r.below(2);
  p.channels = r.any({1, 3, 5});
  p.height = 1 + r.below(9);
  p.width = 1 + r.below(40);
  p.out_channels = r.any({1, 16, 31, 33, 64});
  p.kernel = {1 + r.below(3), 1 + r.below(7)};
  p.stride = {1 + r.below(2), 1 + r.below(3)};
  p.dilation = {1 + r.below(2), 1 + r.below(2)};
  p.padding = {p.kernel.h * p.dilation.h / 2, p.kernel.w * p.dilation.w / 2};
  p.output = {(p.height + 2 * p.padding.h - p.dilation.h * (p.kernel.h - 1) - 1) / p.stride.h + 1,
              (p.width + 2 * p.padding.w - p.dilation.w * (p.kernel.w - 1) - 1) / p.stride.w + 1};
  std::snprintf(current, sizeof(current), "stem %dx%d %d->%d @ %dx%d", static_cast<int>(p.kernel.h),
                static_cast<int>(p.kernel.w), static_cast<int>(p.channels), static_cast<int>(p.out_channels),
                static_cast<int>(p.height), static_cast<int>(p.width));

  const int64_t c = p.channels, oc = p.out_channels, words = words_of(oc), taps = p.kernel.h * p.kernel.w;
  Guarded<float> input(p.batch * c * p.height * p.width), weight(words * taps * c * 32);
  for (int64_t i = 0; i < p.batch * c * p.height * p.width; ++i) input[i] = any_float(r);
  for (int64_t i = 0; i < words * taps * c * 32; ++i)
    weight[i] = i / (taps * c * 32) * 32 + i % 32 < oc ? any_float(r) : 0;
  p.input = input.data();
  p.weight = weight.data();
  p.stride_n = c * p.height * p.width;
  if (r.below(2)) {
    p.stride_c = 1, p.stride_w = c, p.stride_h = c * p.width;
  } else {
    p.stride_c = p.height * p.width, p.stride_w = 1, p.stride_h = p.width;
  }
  Stream& s = p.stream;
  s.steps = r.below(3);
  s.relu = r.below(2);
  s.planes = 1 + r.below(2);
  std::vector<float> affine, threshold;
  for (int64_t i = 0; i < s.steps * 2 * oc; ++i) affine.push_back(any_float(r));
  s.affine = affine.data();

  const int64_t pixels = p.batch * p.output.h * p.output.w;
  std::vector<float> expected(static_cast<size_t>(pixels * oc));
  for (int64_t i = 0; i < pixels * oc; ++i) {
    const int64_t o = i % oc, ox = i / oc % p.output.w, oy = i / oc / p.output.w % p.output.h;
    const float* image = p.input + i / oc / p.output.w / p.output.h * p.stride_n;
    const float* w = p.weight + o / 32 * taps * c * 32 + o % 32;
    float y = 0;
    for (int64_t ky = 0; ky < p.kernel.h; ++ky)
      for (int64_t kx = 0; kx < p.kernel.w; ++kx)
        for (int64_t k = 0; k < c; ++k, w += 32) {
          const int64_t iy = oy * p.stride.h - p.padding.h + ky * p.dilation.h;
          const int64_t ix = ox * p.stride.w - p.padding.w + kx * p.dilation.w;
          const bool inside = iy >= 0 && iy < p.height && ix >= 0 && ix < p.width;
          y = std::fma(inside ? image[k * p.stride_c + iy * p.stride_h + ix * p.stride_w] : 0.0f, *w, y);
        }
    for (int64_t step = 0; step < s.steps; ++step)
      y = std::fma(y, affine[static_cast<size_t>(2 * step * oc + o)],
                   affine[static_cast<size_t>((2 * step + 1) * oc + o)]);
    expected[static_cast<size_t>(i)] = s.relu && y < 0 ? 0.0f : y;
  }
  for (int64_t i = 0; i < s.planes * oc; ++i)
    threshold.push_back(expected[static_cast<size_t>(r.below(pixels) * oc + i % oc)]);
  s.threshold = threshold.data();
  std::vector<Word> flip(static_cast<size_t>(s.planes * words));
  for (Word& word : flip) word = static_cast<Word>(r.bits());
  p.flip = flip.data();
  std::vector<Word> expected_bits(static_cast<size_t>(pixels * s.planes * words));
  for (int64_t i = 0; i < pixels * oc; ++i)
    for (int64_t t = 0; t < s.planes; ++t) {
      const int64_t word = t * words + i % oc / 32;
      const bool bit =
          (expected[static_cast<size_t>(i)] >= threshold[static_cast<size_t>(t * oc + i % oc)]) !=
          (flip[static_cast<size_t>(word)] >> (i % oc % 32) & 1);
      expected_bits[static_cast<size_t>(i / oc * s.planes * words + word)] |= Word{bit} << (i % oc % 32);
    }

  Guarded<float> output(pixels * oc);
  Guarded<Word> bits(pixels * s.planes * words);
  s.bits = bits.data();
  if (s.steps == 0 && !s.relu) check(bits, expected_bits, [&] { stem(p); });
  s.output = output.data();
  check(output, expected, [&] { stem(p); });
  check(bits, expected_bits, [&] { stem(p); });
}

}  // namespace

void check_stems(Random& r) {
  for (int i = 0; i < 60; ++i) check_stem(r);
}

}  // namespace cross
