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

enum class FloatKind : int32_t { f32, bf16, f16, fixed8 };  // int8 in sixteenths

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

constexpr int kMaxPhases = 8;    // the largest stride of a transposed convolution
constexpr int kMaxResidual = 6;  // tensors of a shortcut

struct ResidualPart {
  const void* data;  // [N, channels, H, W] with any strides
  FloatKind kind;
  int32_t channels;
  int64_t stride_n, stride_c, stride_h, stride_w;
};

// The float residual stream behind a convolution; the formula stands in cpu/stream/stream.h.
struct StreamParams {
  void* output;  // [N, OH, OW, OC]; null where it is not stored
  FloatKind kind;
  int32_t steps;
  const float* affine;     // [steps, 2, OC]
  const float* threshold;  // [planes, OC]
  int32_t residuals, residual_channels;
  ResidualPart residual[kMaxResidual];
  int32_t pool;
  Divide upsample;
  int32_t relu;
  // A 1x1 convolution behind the stream, which is then not stored: logits = head * y + head_bias. One block
  // has all channels.
  const float* head;       // [classes, OC] or null
  const float* head_bias;  // [classes] or null: 0
  int32_t classes;
  float* logits;  // [N, OH, OW, classes]
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
  int32_t weight_planes;      // bit layouts: to multiply by, 1 where no weight is zero
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

// A masked binary matrix product (cuda/gemm/gemm.h): one row of packed activations per output row.
struct GemmParams {
  const Word* input;
  int32_t stride;  // words from one row to the next, a multiple of 4
  int32_t rows, words;
  int32_t out_channels, out_words;
  const Word* weight;         // both planes (cuda/weight.h)
  int32_t weight_row;         // words of an output channel
  int64_t weight_plane;       // words from one plane to the next
  int32_t weight_planes;      // to multiply by, 1 where both are the same
  const int32_t* weight_sum;  // [out_channels]
  // Bits, or where they are null dot products.
  Word* bits;  // [rows, planes * out_words]
  int32_t planes;
  const int32_t* threshold;  // [planes, out_channels]
  const Word* flip;          // [planes, out_words]
  float* sums;               // [rows, out_channels]
};

// The kernels below run one thread (pack_channels, stem: one warp) per item of a flat list; `items` counts
// them.

// bit = (gate * x >= threshold) ^ flip
struct PackParams {
  const void* input;  // [N, channels, H, W] with any strides
  FloatKind kind;
  int32_t channels;
  int64_t stride_n, stride_c, stride_h, stride_w;
  int32_t planes;
  const float* threshold;        // [planes, channels] or null: 0
  const float* gate;             // [N, channels] or null: 1
  const Word* flip;              // [words] or null: 0
  Word* output;                  // [N, H, W, words]
  int32_t items, pixels, words;  // items = pixels * words, words those of all planes
  Divide by_pixels, by_words, by_plane, by_width, by_height;
};

struct UnpackParams {
  const Word* input;
  int64_t stride_n, stride_h, stride_w;
  float* output;  // [N, H, W, channels]
  int32_t items, channels;
  Divide by_channels, by_width, by_height;
};

// A part of joined bits, brought to the output's size by nearest. Where a part ends inside a word, its bits
// behind the last channel are 0.
struct JoinedPart {
  const Word* data;
  int64_t stride_n, stride_h, stride_w;
  int32_t channels, height, width;
  float row_scale, column_scale;  // pixels of the part for one of the output; 0: as many
};
constexpr int kMaxJoined = 16;

// Items are words of output pixels.
struct JoinBitsParams {
  JoinedPart part[kMaxJoined];
  int32_t parts;
  Word* output;  // [N, H, W, words]
  int32_t items;
  Divide by_words, by_width, by_height;
};

// Items are vectors of words of output pixels: their `vectors` per pixel.
struct MaxPool2dParams {
  const Word* input;
  int64_t stride_n, stride_h, stride_w;
  Word* output;  // [N, OH, OW, words]
  int32_t items, height, width;
  int32_t kernel_h, kernel_w, stride_y, stride_x, padding_h, padding_w, dilation_h, dilation_w;
  Divide by_vectors, by_width, by_height;  // of the output
};

// A float convolution with few input channels, and what cpu/stem/stem_tile.h says of what follows it: the
// same sums in the same order, kernel row by kernel row, column by column, channel by channel, every step a
// fused multiply-add. Items are warps: kStemPixels neighbouring pixels of a row x two words of output
// channels.
struct StemParams {
  const float* input;  // [N, channels, H, W] with any strides
  int32_t channels, height, width;
  int64_t stride_n, stride_c, stride_h, stride_w;
  const float* weight;  // [OCw, KH, KW, channels, 32]
  int32_t out_width, out_channels;
  int32_t kernel_h, kernel_w, stride_y, stride_x, padding_h, padding_w, dilation_h, dilation_w;
  StreamParams stream;  // no residual, no head
  const Word* flip;     // [planes, words] or null: 0
  int32_t planes, words;
  Word* bits;  // [N, OH, OW, planes * words]
  int32_t items;
  Divide by_pairs, by_width, by_height;  // pairs of words, groups of pixels, rows of the output
};
constexpr int kStemPixels = 8;

// Products on registers, `rounds` times kPeakChains in each warp that do not wait for each other.
struct PeakParams {
  int32_t rounds;
  int32_t* output;  // [blocks, kPeakThreads]
};
constexpr int kPeakChains = 8, kPeakThreads = 256;

}  // namespace mbu::cuda
