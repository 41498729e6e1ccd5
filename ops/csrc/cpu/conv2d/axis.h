// One axis of a convolution. A 2-d convolution is the product of two axes: its taps are row taps x column
// taps, its border classes row classes x column classes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace mbu {

struct AxisTap {
  int64_t offset;  // input coordinate, relative to output * step
  int64_t kernel;  // index along the kernel
};

// Outputs out_base, out_base + out_step, ...: output number i reads input i * step + tap.offset for every
// tap. An ordinary convolution has one phase; with a wide dilation it has several, stretches of outputs that
// see the same taps. A transposed one has `stride` phases (sub-pixel decomposition): the outputs that share a
// remainder modulo the stride see the same taps, as an ordinary convolution with step 1.
struct AxisPhase {
  std::vector<AxisTap> taps;  // may be empty: those outputs see no input
  int64_t step, outputs, out_base, out_step;
  int64_t first, last;  // smallest and largest tap offset
  // Neighbouring outputs that miss the same taps (because those fall outside the input) form a border class:
  // what both ends of a stretch belong to, all between do.
  int32_t classes;
  std::vector<int32_t> border;   // [outputs] class of each output
  std::vector<uint8_t> missing;  // [classes, taps]

  int64_t input_begin(int64_t output) const { return output * step + first; }
  int64_t input_end(int64_t output) const { return output * step + last + 1; }
  bool missing_tap(int64_t border_class, size_t tap) const {
    return missing[static_cast<size_t>(border_class) * taps.size() + tap];
  }
};

struct AxisParams {
  int64_t input, output, kernel, stride, padding, dilation;
  bool transposed;
  bool zero_padding;
};

// The phases of an axis; `phases` only grows, so that a kept Axis stops allocating.
struct Axis {
  std::vector<AxisPhase> phases;
  int64_t count = 0;
  std::vector<int64_t> cuts;  // between stretches of outputs, both ends among them

  void plan(const AxisParams& params);
};

}  // namespace mbu
