// What a CUDA kernel is given: one struct of pointers and numbers per operation, the same on host and device.
// Strides count elements of the pointed-to type. Bit meanings are those of mbu/types.h.
#pragma once
#include "cuda/integers.h"

namespace mbu::cuda {

// Division by a number that a launch keeps: quotient = high half of (value * multiplier) >> shift, for values
// below 2^31; a multiplier of 0 means division by one. Made by divide_by (cuda/plan.h).
struct Divide {
  uint32_t divisor, multiplier, shift;
};

enum class FloatKind : int32_t { f32, bf16, f16 };

// Packed activations that a convolution reads; the image is `upsample` times as high and wide as the memory
// (nearest), and a second source follows the first along the channels.
struct ConvSource {
  const Word* data;
  int64_t stride_n, stride_h, stride_w;
  int32_t words;  // of a pixel; 0: no such source
  Divide upsample;
};

// One axis of outputs that see the same taps (cpu/conv2d/axis.h): output o of the phase, which is pixel
// phase + o * out_step, reads input o * step + offset + i * offset_step with kernel element
// kernel + i * kernel_step, for i in [0, taps).
struct AxisPhase {
  int32_t outputs, taps, offset, offset_step, kernel, kernel_step;
  Divide by_outputs, by_taps;
};

constexpr int kMaxPhases = 8;   // the largest stride of a transposed convolution
constexpr int kMaxResidual = 4;  // tensors of a shortcut

struct ResidualPart {
  const void* data;  // [N, channels, H, W] with any strides
  FloatKind kind;
  int32_t channels;
  int64_t stride_n, stride_c, stride_h, stride_w;
};

// The float residual stream behind a convolution; the formula stands in cpu/stream/stream.h.
struct StreamParams {
  void* output;  // [N, OH, OW, OC]
  FloatKind kind;
  int32_t steps;
  const float* affine;     // [steps, 2, OC]
  const float* threshold;  // [planes, OC]
  int32_t residuals, residual_channels;
  ResidualPart residual[kMaxResidual];
  int32_t pool;
  Divide upsample;
  int32_t relu;
};

// A convolution as an implicit matrix product: rows are output pixels of one pass (a pair of phases), columns
// are output channels, K runs over taps and, within a tap, over the words of all sources.
struct Conv2dParams {
  ConvSource source[2];
  int32_t batch, height, width;  // of the input, after upsampling
  int32_t words;                 // of an input pixel, all sources
  Divide by_words;
  int32_t step_h, step_w;          // input pixels from one output of a phase to the next
  int32_t phases_h, phases_w;      // 1 but for transposed convolutions
  int32_t out_step_h, out_step_w;  // output pixels from one output of a phase to the next
  AxisPhase rows[kMaxPhases], columns[kMaxPhases];
  int32_t out_height, out_width, out_channels, padded_channels;
  int32_t kernel_w;
  int32_t zero_padding;  // a padded tap contributes nothing; otherwise a padded activation is -1
  // The weight (cuda/weight.h).
  const Word* weight;
  int32_t weight_row;         // bit layouts: words of an output channel
  int32_t scale;              // dot = scale * accumulator + base
  const int32_t* base;        // [taps + 1, padded_channels]; the last row is the sum of the others
  const int32_t* weight_sum;  // [taps, padded_channels]
  int32_t taps;               // of the whole kernel
  // Bits, from integer thresholds here or from the stream's float ones.
  Word* bits;  // [N, OH, OW, planes * OCw]
  int32_t planes, out_words;
  const int32_t* threshold;  // [planes, OC]
  const Word* flip;          // [planes, OCw]
  StreamParams stream;
};

}  // namespace mbu::cuda
