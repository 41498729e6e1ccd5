// What becomes of dot products: bits by integer thresholds, straight from registers; or the float stream.
#pragma once
#include "cuda/conv2d/dots.h"

namespace mbu::cuda {

// bit = (dot >= threshold) ^ flip. A warp's 32 channels are one word: each lane has 8 of its bits, a quad of
// lanes all of them.
struct ToBits {
  template <class T>
  static constexpr int kBytes = 0;

  template <class T>
  static MBU_DEVICE void run(const Conv2dParams& p, const Pass& pass, int32_t first_pixel,
                             int32_t first_channel, int warp_m, int warp_n, Accumulators<T>& sums) {
    const int32_t channel = first_channel + warp_n * T::kWarpChannels, word = channel / 32;
    const int32_t pixel = first_pixel + warp_m * T::kWarpPixels;
    if (word >= p.out_words) return;
    finish_dots<T>(p, pass, pixel, channel, sums);
    for (int32_t plane = 0; plane < p.planes; ++plane) {
      const int32_t* threshold = p.threshold + int64_t{plane} * p.out_channels + channel;
      int32_t limit[T::kColumnParts][2];
#pragma unroll
      for (int j = 0; j < T::kColumnParts; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int32_t own = own_channel(j) + e;
          // No dot product reaches it, so the bits above the last channel stay 0.
          limit[j][e] = channel + own < p.out_channels ? threshold[own] : 0x7fffffff;
        }
      const Word flip = p.flip[plane * p.out_words + word] & valid_bits(word, p.out_channels);
#pragma unroll
      for (int i = 0; i < T::kRowParts; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          Word bits = 0;
#pragma unroll
          for (int j = 0; j < T::kColumnParts; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e)
              bits |= static_cast<Word>(sums[i][j][half * 2 + e] >= limit[j][e]) << (own_channel(j) + e);
          bits |= shuffle_xor(bits, 1);
          bits |= shuffle_xor(bits, 2);
          const int32_t index = pixel + own_row(i, half);
          if (thread_index() % 4 == (i * 2 + half) % 4 && index < pass.pixels) {
            const int64_t output = pass.output(p, pass.pixel(index));
            p.bits[(output * p.planes + plane) * p.out_words + word] = bits ^ flip;
          }
        }
      }
    }
  }
};

// The residual of one output value: the shortcut's tensors, joined along the channels, repeated where they
// have fewer channels than the layer and averaged over groups where they have more; each value the maximum of
// a window, or one pixel for several (StreamParams).
MBU_DEVICE float residual_at(const Conv2dParams& p, int32_t n, int32_t y, int32_t x, int32_t channel) {
  const StreamParams& s = p.stream;
  const int32_t terms = s.residual_channels > p.out_channels ? s.residual_channels / p.out_channels : 1;
  float total = 0;
  for (int32_t term = 0; term < terms; ++term) {
    int32_t local = channel % s.residual_channels + term * p.out_channels, part = 0;
    for (; local >= s.residual[part].channels; ++part) local -= s.residual[part].channels;
    const ResidualPart& r = s.residual[part];
    const int64_t from = n * r.stride_n + local * r.stride_c +
                         int64_t{quotient_of(y, s.upsample)} * s.pool * r.stride_h +
                         int64_t{quotient_of(x, s.upsample)} * s.pool * r.stride_w;
    float value = load_float(r.data, from, r.kind);
    for (int32_t dy = 0; dy < s.pool; ++dy)
      for (int32_t dx = 0; dx < s.pool; ++dx) {
        const float other = load_float(r.data, from + dy * r.stride_h + dx * r.stride_w, r.kind);
        value = other > value || other != other ? other : value;
      }
    total = term == 0 ? value : add(total, value);
  }
  return terms == 1 ? total : divide(total, static_cast<float>(terms));
}

// y = dot; y = fma(y, factor, offset) for every step; y += residual; relu; y rounded once to what memory
// holds; then bit = (y >= threshold).
// Dot products go through shared memory so that a warp's lanes are 32 channels of one pixel: constants and
// shortcuts are read, results written and bits gathered a whole row at a time. Where a head follows, y takes
// the place of its dot product.
struct ToStream {
  template <class T>
  static constexpr int kBytes = T::kSumsBytes;

  template <class T>
  static MBU_DEVICE void run(const Conv2dParams& p, const Pass& pass, int32_t first_pixel,
                             int32_t first_channel, int warp_m, int warp_n, Accumulators<T>& sums) {
    const int32_t warp_channel = warp_n * T::kWarpChannels;
    if (first_channel + warp_channel < p.padded_channels)
      finish_dots<T>(p, pass, first_pixel + warp_m * T::kWarpPixels, first_channel + warp_channel, sums);
    barrier();  // the last stage has been read
#pragma unroll
    for (int i = 0; i < T::kRowParts; ++i)
#pragma unroll
      for (int j = 0; j < T::kColumnParts; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = warp_m * T::kWarpPixels + own_row(i, half), column = warp_channel + own_channel(j);
          const Words<2> pair{
              {static_cast<Word>(sums[i][j][half * 2]), static_cast<Word>(sums[i][j][half * 2 + 1])}};
          store_shared<2>(place_of_sum<T>(row, column), pair);
        }
    barrier();
    const int warp = thread_index() / kWarpLanes;
    for (int word = 0; word < T::kChannels / 32 && first_channel / 32 + word < p.out_words; ++word)
      for (int row = warp; row < T::kPixels && first_pixel + row < pass.pixels; row += T::kWarps)
        finish_word<T>(p, pass, pass.pixel(first_pixel + row), row, first_channel, word);
    if (!p.stream.head) return;
    barrier();  // all channels are there
    project<T>(p, pass, first_pixel);
  }

  template <class T>
  static MBU_DEVICE uint32_t place_of_sum(int row, int column) {
    return static_cast<uint32_t>(4 * (row * T::kSumsPitch + column));
  }

  // logits = head * y + head_bias, channel by channel, every step a fused multiply-add: a thread has a class
  // of a pixel, a warp one class.
  template <class T>
  static MBU_DEVICE void project(const Conv2dParams& p, const Pass& pass, int32_t first_pixel) {
    const StreamParams& s = p.stream;
    for (int32_t i = thread_index(); i < T::kPixels * s.classes; i += T::kThreads) {
      const int32_t row = i % T::kPixels, k = i / T::kPixels;
      if (first_pixel + row >= pass.pixels) continue;
      const float* weight = s.head + k * p.out_channels;
      float sum = s.head_bias ? s.head_bias[k] : 0.0f;
      for (int32_t channel = 0; channel < p.out_channels; channel += 4) {
        const Words<4> y = load_shared<4>(place_of_sum<T>(row, channel));
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (channel + e < p.out_channels)
            sum = multiply_add(bits_float(y.word[e]), weight[channel + e], sum);
      }
      s.logits[pass.output(p, pass.pixel(first_pixel + row)) * s.classes + k] = sum;
    }
  }

  template <class T>
  static MBU_DEVICE void finish_word(const Conv2dParams& p, const Pass& pass, const Pixel& px, int row,
                                     int32_t first_channel, int word) {
    const StreamParams& s = p.stream;
    const int lane = thread_index() % kWarpLanes, column = word * 32 + lane;
    const int32_t channel = first_channel + column, oc = p.out_channels;
    const int64_t output = pass.output(p, px);
    float y = 0;
    if (channel < oc) {
      y = static_cast<float>(static_cast<int32_t>(load_shared<1>(place_of_sum<T>(row, column)).word[0]));
      for (int32_t step = 0; step < s.steps; ++step)
        y = multiply_add(y, s.affine[2 * step * oc + channel], s.affine[(2 * step + 1) * oc + channel]);
      if (s.residuals)
        y = add(y, residual_at(p, px.n, px.y * p.out_step_h + pass.phase_h,
                               px.x * p.out_step_w + pass.phase_w, channel));
      if (s.relu && y < 0) y = 0;
      y = round_to(y, s.kind);
      if (s.head)
        store_shared<1>(place_of_sum<T>(row, column), Words<1>{{float_bits(y)}});
      else
        store_float(s.output, output * oc + channel, s.kind, y);
    }
    for (int32_t plane = 0; plane < p.planes; ++plane) {
      const Word bits = ballot(channel < oc && y >= s.threshold[plane * oc + (channel < oc ? channel : 0)]);
      if (lane == 0) p.bits[(output * p.planes + plane) * p.out_words + first_channel / 32 + word] = bits;
    }
  }
};

}  // namespace mbu::cuda
