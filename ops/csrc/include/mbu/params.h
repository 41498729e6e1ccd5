// What an operation needs to know, in pointers and numbers. csrc/torch fills these after checking;
// csrc/cpu and csrc/cuda read them. Sizes are in elements, strides in elements of the pointed-to type.
#pragma once
#include <cstdint>

#include "mbu/float_type.h"
#include "mbu/types.h"

namespace mbu {

struct PackedImage {
  const Word* data;
  int64_t batch, height, width, words;
  int64_t stride_n, stride_h, stride_w;  // the words of a pixel are contiguous
};

// One part of a residual: [N, channels, H, W] of any type but f16, with any strides.
struct StreamSource {
  const void* data;
  int64_t channels, stride_n, stride_c, stride_h, stride_w;
  FloatType type = FloatType::f32;

  // `elements` from `data` on.
  const void* at(int64_t elements) const { return mbu::at(data, elements, type); }
};

// What turns dot products into the float residual stream; see cpu/stream/stream.h for the formula.
struct Stream {
  const float* affine;  // [steps, 2, OC]
  int64_t steps;
  const StreamSource* residual;  // [residuals], one after another along the channels
  int64_t residuals, residual_channels;
  int64_t pool, upsample;  // max over pool x pool pixels, each pixel repeated upsample x upsample times
  bool relu;
  void* output;    // [N, OH, OW, OC]; null with a head
  FloatType type;  // of the output, which is rounded once, to nearest even
  // A 1x1 convolution behind the stream, which is then not stored: logits = head * y + head_bias.
  const float* head;       // [classes, OC] or null
  const float* head_bias;  // [classes] or null: 0
  int64_t classes;
  float* logits;           // [N, OH, OW, classes]
  Word* bits;              // [N, OH, OW, planes * OCw], of what is stored
  const float* threshold;  // [planes, OC]
  int64_t planes;
};

struct Conv2dParams {
  PackedImage input;  // where joined, its size and its words in all; `data` and strides only without parts
  // Images joined along the channels, each brought to the input's size by nearest; none: `input` is the
  // image.
  const PackedImage* part;
  int64_t parts;
  TiledWeight weight;
  int64_t out_channels;
  Extent kernel, stride, padding, dilation, output;
  bool transposed;
  bool zero_padding;  // a padded tap contributes nothing; otherwise a padded activation is -1
  // Exactly one of the three outputs is set.
  const Stream* stream;
  float* sums;  // [N, OH, OW, OC]
  Word* bits;   // [N, OH, OW, planes * OCw]
  int64_t planes;
  const int32_t* threshold;  // [planes, OC]
  const Word* flip;          // [planes, OCw]
};

struct StemParams {
  const float* input;  // [N, C, H, W]
  int64_t batch, channels, height, width;
  int64_t stride_n, stride_c, stride_h, stride_w;
  const float* weight;  // [OCw, KH, KW, C, 32]
  int64_t out_channels;
  Extent kernel, stride, padding, dilation, output;
  Stream stream;     // no residual; `output` may be null
  const Word* flip;  // [planes, OCw] or null: 0
};

struct HeadParams {
  const float* input;  // [N, C, H, W]
  int64_t batch, channels, height, width;
  int64_t stride_n, stride_c, stride_h, stride_w;
  const float* weight;  // [classes, KH, KW, C]
  const float* bias;    // [classes]
  int64_t classes;
  Extent kernel, padding, output;
  float* logits;  // [N, OH, OW, classes]
};

struct JoinedHeadParams {
  const StreamSource* part;  // [parts] float32, one after another along the channels
  int64_t parts, batch, channels, height, width;
  const float* weight;  // [classes, C]
  const float* bias;    // [classes] or null: 0
  const float* gate;    // [N, C] or null: 1
  int64_t classes;
  float* logits;  // [N, H, W, classes]
};

// Bilinear, as torch.nn.functional.interpolate defines it.
struct UpsampleParams {
  const float* input;  // [N, H, W, C]
  int64_t batch, channels, height, width;
  Extent output;
  bool align_corners;
  double scale_h, scale_w;  // given factors, or 0: from the sizes
  float* result;            // [N, OH, OW, C]
};

struct PackParams {
  const void* input;  // [N, C, H, W]
  FloatType type;
  int64_t batch, channels, height, width;
  int64_t stride_n, stride_c, stride_h, stride_w;
  int64_t planes;          // at least 1
  const float* threshold;  // [planes, C] or null: 0
  const Word* flip;        // [planes, Cw] or null: 0
  const float* gate;       // [N, C], a factor of the input, or null: 1
  Word* output;            // [N, H, W, planes * Cw]
};

struct UnpackParams {
  PackedImage input;
  int64_t channels;
  float* output;  // [N, H, W, C]
};

// Parts joined along the channels bit by bit; the bits behind the last channel of each are 0.
struct JoinBitsParams {
  const PackedImage* part;  // [parts], of one size; a GPU brings each to the output's by nearest
  const int64_t* channels;  // [parts]
  int64_t parts, batch, height, width;
  int64_t words;  // of an output pixel
  Word* output;   // [N, H, W, words]
};

struct MaxPool2dParams {
  PackedImage input;
  Extent kernel, stride, padding, dilation, output;
  Word* bits;  // [N, OH, OW, Cw]
};

}  // namespace mbu
