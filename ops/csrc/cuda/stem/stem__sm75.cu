// The first convolution of a network, in float, with what follows it. A warp has two output words of some pixels
// of a row: its lanes are output channels, so weights are read side by side and the image by broadcast, and what
// is read serves all of the pixels and both words.
#include "cuda/arithmetic.h"

namespace mbu::cuda {
namespace {

struct StemWarp {
  int32_t word, n, y, first;  // the first of two words, the first of kStemPixels columns
  int lane;
};

using StemSums = float[2][kStemPixels];

MBU_DEVICE float pixel_value(const StemParams& p, const float* row, int32_t x) {
  return outside(x, p.width) ? 0.0f : row[x * p.stride_w];
}

// One kernel row, whatever its shape.
struct AnyRow {
  static MBU_DEVICE void add(const StemParams& p, const StemWarp& w, const float* row, const float* weight[2],
                             StemSums& sum) {
    for (int32_t kx = 0; kx < p.kernel_w; ++kx)
      for (int32_t c = 0; c < p.channels; ++c) {
        const float factor[2] = {weight[0][0], weight[1][0]};
        weight[0] += kWarpLanes, weight[1] += kWarpLanes;
#pragma unroll
        for (int i = 0; i < kStemPixels; ++i) {
          const int32_t x = (w.first + i) * p.stride_x - p.padding_w + kx * p.dilation_w;
          const float value = pixel_value(p, row + c * p.stride_c, x);
          sum[0][i] = multiply_add(value, factor[0], sum[0][i]);
          sum[1][i] = multiply_add(value, factor[1], sum[1][i]);
        }
      }
  }
};

// Three columns of three channels without steps: each value is read once for its three columns.
struct RowOfNine {
  static MBU_DEVICE bool fits(const StemParams& p) {
    return p.kernel_w == 3 && p.channels == 3 && p.stride_x == 1 && p.dilation_w == 1;
  }
  static MBU_DEVICE void add(const StemParams& p, const StemWarp& w, const float* row, const float* weight[2],
                             StemSums& sum) {
    float value[3][kStemPixels + 2];
#pragma unroll
    for (int c = 0; c < 3; ++c)
#pragma unroll
      for (int i = 0; i < kStemPixels + 2; ++i)
        value[c][i] = pixel_value(p, row + c * p.stride_c, w.first - p.padding_w + i);
#pragma unroll
    for (int kx = 0; kx < 3; ++kx)
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const float factor[2] = {weight[0][0], weight[1][0]};
        weight[0] += kWarpLanes, weight[1] += kWarpLanes;
#pragma unroll
        for (int i = 0; i < kStemPixels; ++i) {
          sum[0][i] = multiply_add(value[c][i + kx], factor[0], sum[0][i]);
          sum[1][i] = multiply_add(value[c][i + kx], factor[1], sum[1][i]);
        }
      }
  }
};

template <class Row>
MBU_DEVICE void convolve(const StemParams& p, const StemWarp& w, StemSums& sum) {
  const int32_t row_weights = p.kernel_w * p.channels * kWarpLanes;
  const float* weight[2];
  weight[0] = p.weight + int64_t{w.word} * p.kernel_h * row_weights + w.lane;
  weight[1] = w.word + 1 < p.words ? weight[0] + int64_t{p.kernel_h} * row_weights : weight[0];
  for (int32_t ky = 0; ky < p.kernel_h; ++ky) {
    const int32_t y = w.y * p.stride_y - p.padding_h + ky * p.dilation_h;
    if (outside(y, p.height)) {  // zeros, which change no sum
      weight[0] += row_weights, weight[1] += row_weights;
      continue;
    }
    Row::add(p, w, p.input + w.n * p.stride_n + y * p.stride_h, weight, sum);
  }
}

// y = fma(y, factor, offset) for every step; relu; y rounded once to what memory holds; then bits.
MBU_DEVICE void finish(const StemParams& p, const StemWarp& w, int32_t word, float (&y)[kStemPixels]) {
  const StreamParams& s = p.stream;
  const int32_t channel = word * 32 + w.lane, oc = p.out_channels;
  const bool live = channel < oc;
  const int32_t own = live ? channel : 0;
  for (int32_t step = 0; step < s.steps; ++step) {
    const float factor = s.affine[2 * step * oc + own], offset = s.affine[(2 * step + 1) * oc + own];
#pragma unroll
    for (int i = 0; i < kStemPixels; ++i) y[i] = multiply_add(y[i], factor, offset);
  }
  const int32_t width = p.out_width, pixels = width - w.first;
  const int64_t output = (int64_t{w.n} * static_cast<int32_t>(p.by_height.divisor) + w.y) * width + w.first;
#pragma unroll
  for (int i = 0; i < kStemPixels; ++i) {
    if (s.relu && y[i] < 0) y[i] = 0;
    y[i] = round_to(y[i], s.kind);
    if (s.output && live && i < pixels) store_float(s.output, (output + i) * oc + channel, s.kind, y[i]);
  }
  for (int32_t plane = 0; plane < p.planes; ++plane) {
    const float limit = s.threshold[plane * oc + own];
    const Word flip = p.flip ? p.flip[plane * p.words + word] & valid_bits(word, oc) : 0;
#pragma unroll
    for (int i = 0; i < kStemPixels; ++i) {
      const Word bits = ballot(live && y[i] >= limit);
      if (w.lane == 0 && i < pixels) p.bits[((output + i) * p.planes + plane) * p.words + word] = bits ^ flip;
    }
  }
}

}  // namespace

// Registers for two blocks of a multiprocessor.
MBU_KERNEL void __launch_bounds__(kFlatThreads, 2) stem__sm75(const __grid_constant__ StemParams p) {
  const int32_t item = flat_index() / kWarpLanes;
  if (item >= p.items) return;
  const Quotient pair = divide_by(item, p.by_pairs);
  const Place at = place_of(pair.quotient, p.by_width, p.by_height);
  const StemWarp w{pair.remainder * 2, at.n, at.y, at.x * kStemPixels, thread_index() % kWarpLanes};
  StemSums sum = {};
  if (RowOfNine::fits(p))
    convolve<RowOfNine>(p, w, sum);
  else
    convolve<AnyRow>(p, w, sum);
  finish(p, w, w.word, sum[0]);
  if (w.word + 1 < p.words) finish(p, w, w.word + 1, sum[1]);
}

}  // namespace mbu::cuda
