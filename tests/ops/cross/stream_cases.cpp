// The float residual stream behind a convolution, one output at a time and rounded in the order it promises.
#include <algorithm>
#include <cmath>
#include <memory>

#include "harness.h"

namespace cross {
namespace {

float any_float(Random& r) {
  return static_cast<float>(r.below(1 << 20) - (1 << 19)) / static_cast<float>(1 << 17);
}

constexpr FloatType kTypes[] = {FloatType::f32, FloatType::bf16, FloatType::fixed8};

// A residual tensor, channels or pixels contiguous, in any type.
struct Part {
  StreamSource source;
  Guarded<float> data;
  Guarded<Bfloat16> halves;
  Guarded<Fixed8> bytes;

  Part(Random& r, int64_t n, int64_t c, int64_t h, int64_t w)
      : data(n * c * h * w), halves(n * c * h * w), bytes(n * c * h * w) {
    const FloatType type = kTypes[r.below(3)];
    for (int64_t i = 0; i < n * c * h * w; ++i) {
      data[i] = any_float(r);
      narrow(data[i], halves[i]);
      narrow(data[i], bytes[i]);
      if (type == FloatType::bf16) data[i] = widen(halves[i]);
      if (type == FloatType::fixed8) data[i] = widen(bytes[i]);
    }
    if (r.below(2))
      source = {data.data(), c, c * h * w, 1, w * c, c};
    else
      source = {data.data(), c, c * h * w, h * w, w, 1};
    source.type = type;
    if (type == FloatType::bf16) source.data = halves.data();
    if (type == FloatType::fixed8) source.data = bytes.data();
  }
  float at(int64_t n, int64_t c, int64_t y, int64_t x) {
    return data[n * source.stride_n + c * source.stride_c + y * source.stride_h + x * source.stride_w];
  }
};

// Rounded to 8 significant bits, or to sixteenths, by its value and not by its bits.
float rounded(float value, FloatType type) {
  if (type == FloatType::f32) return value;
  if (type == FloatType::fixed8) return std::clamp(std::nearbyint(value * 16), -128.0f, 127.0f) / 16;
  int exponent;
  const float mantissa = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(mantissa, 8)), exponent - 8);
}

}  // namespace

void check_stream(Random& r, Conv2dParams p, const Weights& weights, const std::vector<int32_t>& sum) {
  const int64_t n = p.input.batch, oc = p.out_channels, oh = p.output.h, ow = p.output.w;
  Stream s{};
  s.steps = r.below(3);
  s.relu = r.below(2);
  s.type = kTypes[r.below(3)];
  s.planes = r.below(3);
  s.pool = 1 + r.below(2);
  s.upsample = s.pool == 1 ? 1 + r.below(2) : 1;
  std::vector<float> affine;
  for (int64_t i = 0; i < s.steps * 2 * oc; ++i) affine.push_back(any_float(r));
  s.affine = affine.data();

  // As many channels as the layer, in one part or two; three times as many; one that all of them share; none.
  const std::vector<int64_t> choices[] = {{oc}, {1, oc - 1}, {oc, 2 * oc}, {1}, {}};
  std::vector<std::unique_ptr<Part>> parts;
  std::vector<StreamSource> sources;
  const int64_t height = (oh + s.upsample - 1) / s.upsample * s.pool,
                width = (ow + s.upsample - 1) / s.upsample * s.pool;
  for (int64_t channels : choices[r.below(5)]) {
    if (channels == 0) continue;
    parts.push_back(std::make_unique<Part>(r, n, channels, height, width));
    sources.push_back(parts.back()->source);
    s.residual_channels += channels;
  }
  s.residual = sources.data();
  s.residuals = static_cast<int64_t>(sources.size());
  auto pooled = [&](int64_t in, int64_t channel, int64_t y, int64_t x) {
    size_t part = 0;
    for (; channel >= sources[part].channels; ++part) channel -= sources[part].channels;
    float largest = -INFINITY;
    for (int64_t i = 0; i < s.pool; ++i)
      for (int64_t j = 0; j < s.pool; ++j)
        largest = std::max(
            largest, parts[part]->at(in, channel, y / s.upsample * s.pool + i, x / s.upsample * s.pool + j));
    return largest;
  };

  std::vector<float> expected(sum.size());
  for (size_t i = 0; i < sum.size(); ++i) {
    const int64_t c = static_cast<int64_t>(i) % oc, pixel = static_cast<int64_t>(i) / oc;
    float y = static_cast<float>(sum[i]);
    for (int64_t step = 0; step < s.steps; ++step)
      y = std::fma(y, affine[static_cast<size_t>(2 * step * oc + c)],
                   affine[static_cast<size_t>((2 * step + 1) * oc + c)]);
    if (s.residuals) {
      const int64_t terms = std::max<int64_t>(s.residual_channels / oc, 1);
      float residual = 0;
      for (int64_t term = 0; term < terms; ++term)
        residual += pooled(pixel / ow / oh, c % s.residual_channels + term * oc, pixel / ow % oh, pixel % ow);
      y += residual / static_cast<float>(terms);
    }
    expected[i] = s.relu && y < 0 ? 0.0f : y;
    expected[i] = rounded(expected[i], s.type);
  }
  const int64_t words = words_of(oc), pixels = n * oh * ow;
  Guarded<Word> bits(pixels * s.planes * words);
  std::vector<float> threshold;
  for (int64_t i = 0; i < s.planes * oc; ++i)
    threshold.push_back(expected[static_cast<size_t>(r.below(pixels) * oc + i % oc)]);
  std::vector<Word> expected_bits(static_cast<size_t>(pixels * s.planes * words));
  for (int64_t i = 0; i < pixels * oc; ++i)
    for (int64_t t = 0; t < s.planes; ++t) {
      const bool reached =
          expected[static_cast<size_t>(i)] >= threshold[static_cast<size_t>(t * oc + i % oc)];
      expected_bits[static_cast<size_t>((i / oc * s.planes + t) * words + i % oc / 32)] |= Word{reached}
                                                                                           << (i % oc % 32);
    }
  s.bits = bits.data();
  s.threshold = threshold.data();
  p.stream = &s;
  const auto check_stored = [&](auto type) {
    using Stored = decltype(type);
    Guarded<Stored> output(static_cast<int64_t>(expected.size()));
    std::vector<Stored> stored(expected.size());
    for (size_t i = 0; i < expected.size(); ++i) narrow(expected[i], stored[i]);
    s.output = output.data();
    check(output, stored, [&] { weights.convolve(p); });
    check(bits, expected_bits, [&] { weights.convolve(p); });
  };
  s.type == FloatType::f32    ? check_stored(float{})
  : s.type == FloatType::bf16 ? check_stored(Bfloat16{})
                              : check_stored(Fixed8{});
}

}  // namespace cross
