#include "cpu/conv2d/axis.h"

#include <algorithm>

namespace mbu {
namespace {

// Output o reads input o * stride - padding + k * dilation; here those in [begin, end).
void plan_conv(const AxisParams& p, int64_t begin, int64_t end, AxisPhase& phase) {
  phase.step = p.stride;
  phase.outputs = end - begin;
  phase.out_base = begin;
  phase.out_step = 1;
  for (int64_t k = 0; k < p.kernel; ++k)
    phase.taps.push_back({begin * p.stride + k * p.dilation - p.padding, k});
}

// Input i adds to output i * stride - padding + k * dilation. Seen from output o = remainder + j * stride:
// i = j + (remainder + padding - k * dilation) / stride, for the k where that division is exact.
void plan_transposed(const AxisParams& p, int64_t remainder, AxisPhase& phase) {
  phase.step = 1;
  phase.outputs = (p.output - remainder + p.stride - 1) / p.stride;
  phase.out_base = remainder;
  phase.out_step = p.stride;
  for (int64_t k = 0; k < p.kernel; ++k) {
    const int64_t distance = remainder + p.padding - k * p.dilation;
    if (distance % p.stride == 0) phase.taps.push_back({distance / p.stride, k});
  }
}

// A tap that meets no input from any output adds nothing where the padding is exact zeros: the outer columns
// of a 3x3 kernel on an image one pixel wide, a dilation beyond the image.
void drop_unseen_taps(const AxisParams& p, AxisPhase& phase) {
  auto unseen = [&](const AxisTap& tap) {
    const int64_t output = std::max<int64_t>(0, (-tap.offset + phase.step - 1) / phase.step);
    return output >= phase.outputs || output * phase.step + tap.offset >= p.input;
  };
  phase.taps.erase(std::remove_if(phase.taps.begin(), phase.taps.end(), unseen), phase.taps.end());
}

// Where a wide dilation is cut: each tap falls outside the input before some output or from some output on,
// and between two cuts such taps are dropped. Only where that saves an eighth of the products, and leaves no
// stretch of few outputs.
void plan_cuts(const AxisParams& p, std::vector<int64_t>& cuts) {
  constexpr int64_t kLeast = 4;
  cuts.assign({0, p.output});
  int64_t products = 0;
  for (int64_t k = 0; k < p.kernel; ++k) {
    const int64_t before = p.padding - k * p.dilation;
    const int64_t begin = std::clamp<int64_t>((before + p.stride - 1) / p.stride, 0, p.output);
    const int64_t end = std::clamp<int64_t>((before + p.input + p.stride - 1) / p.stride, begin, p.output);
    products += end - begin;
    cuts.insert(cuts.end(), {begin, end});
  }
  std::sort(cuts.begin(), cuts.end());
  int64_t last = 0;
  const auto few = [&](int64_t cut) {
    const bool drop = cut && cut < p.output && (cut - last < kLeast || p.output - cut < kLeast);
    if (!drop) last = cut;
    return drop;
  };
  cuts.erase(std::remove_if(cuts.begin(), cuts.end(), few), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  if (8 * products > 7 * p.kernel * p.output) cuts.assign({0, p.output});
}

void classify(const AxisParams& p, AxisPhase& phase) {
  const size_t taps = phase.taps.size();
  phase.first = phase.last = taps ? phase.taps[0].offset : 0;
  for (const AxisTap& tap : phase.taps) {
    phase.first = std::min(phase.first, tap.offset);
    phase.last = std::max(phase.last, tap.offset);
  }
  phase.border.assign(static_cast<size_t>(phase.outputs), 0);
  phase.missing.assign(taps, 0);  // class 0: nothing missing
  phase.classes = 1;
  if (!p.zero_padding) return;  // a ring of -1 is what the layer means: nothing to correct
  int32_t current = 0;
  for (int64_t o = 0; o < phase.outputs; ++o) {
    auto outside = [&](size_t t) {
      const int64_t i = o * phase.step + phase.taps[t].offset;
      return i < 0 || i >= p.input;
    };
    auto matches = [&](int32_t c) {
      for (size_t t = 0; t < taps; ++t)
        if (phase.missing_tap(c, t) != outside(t)) return false;
      return true;
    };
    if (!matches(current)) {
      // Not a class on the other side of the image, even if it is alike: see AxisPhase::border.
      current = matches(0) ? 0 : phase.classes++;
      if (current)
        for (size_t t = 0; t < taps; ++t) phase.missing.push_back(outside(t));
    }
    phase.border[static_cast<size_t>(o)] = current;
  }
}

}  // namespace

void Axis::plan(const AxisParams& params) {
  if (!params.transposed && params.zero_padding)
    plan_cuts(params, cuts);
  else
    cuts.assign({0, params.output});
  count = params.transposed ? std::min(params.stride, params.output) : static_cast<int64_t>(cuts.size()) - 1;
  if (static_cast<int64_t>(phases.size()) < count) phases.resize(static_cast<size_t>(count));
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    AxisPhase& phase = phases[i];
    phase.taps.clear();
    if (params.transposed)
      plan_transposed(params, static_cast<int64_t>(i), phase);
    else
      plan_conv(params, cuts[i], cuts[i + 1], phase);
    if (params.zero_padding) drop_unseen_taps(params, phase);
    classify(params, phase);
  }
}

}  // namespace mbu
