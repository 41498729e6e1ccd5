// Floats to bits, in two readings of the same list of (pixel, word) items.
#include "cuda/arithmetic.h"

namespace mbu::cuda {
namespace {

MBU_DEVICE float gated_value(const PackParams& p, int64_t pixel, int32_t n, int32_t channel) {
  const float value = load_float(p.input, pixel + channel * p.stride_c, p.kind);
  return p.gate ? value * p.gate[n * p.channels + channel] : value;
}

}  // namespace

// Channels side by side in memory: a warp reads the 32 channels of a word at once, and after 32 words each
// lane has one to write.
MBU_KERNEL void __launch_bounds__(kFlatThreads) pack_channels__sm75(const __grid_constant__ PackParams p) {
  const int lane = thread_index() % kWarpLanes;
  const int32_t first = flat_index() - lane;
  Word own = 0;
  for (int32_t i = 0; i < kWarpLanes && first + i < p.items; ++i) {
    const Quotient at = divide_by(first + i, p.by_words);
    const Place px = place_of(at.quotient, p.by_width, p.by_height);
    const Quotient plane = divide_by(at.remainder, p.by_plane);
    const int32_t channel = plane.remainder * 32 + lane;
    bool bit = false;
    if (channel < p.channels) {
      const int64_t from = px.n * p.stride_n + px.y * p.stride_h + px.x * p.stride_w;
      const float threshold = p.threshold ? p.threshold[plane.quotient * p.channels + channel] : 0.0f;
      bit = gated_value(p, from, px.n, channel) >= threshold;
    }
    const Word word =
        ballot(bit) ^ (p.flip ? p.flip[at.remainder] & valid_bits(plane.remainder, p.channels) : 0);
    if (lane == i) own = word;
  }
  if (first + lane < p.items) p.output[first + lane] = own;
}

// Pixels side by side: a thread collects the channels of a word, a warp reads 32 pixels at once.
MBU_KERNEL void __launch_bounds__(kFlatThreads) pack_pixels__sm75(const __grid_constant__ PackParams p) {
  const int32_t item = flat_index();
  if (item >= p.items) return;
  const Quotient at = divide_by(item, p.by_pixels);
  const int32_t word = at.quotient, pixel = at.remainder;
  const Quotient plane = divide_by(word, p.by_plane);
  const Place px = place_of(pixel, p.by_width, p.by_height);
  const int64_t from = px.n * p.stride_n + px.y * p.stride_h + px.x * p.stride_w;
  const int32_t first = plane.remainder * 32, thresholds = plane.quotient * p.channels;
  Word bits = 0;
  for (int32_t channel = first; channel < first + 32 && channel < p.channels; ++channel) {
    const float value = gated_value(p, from, px.n, channel);
    const float threshold = p.threshold ? p.threshold[thresholds + channel] : 0.0f;
    bits |= static_cast<Word>(value >= threshold) << (channel - first);
  }
  if (p.flip) bits ^= p.flip[word] & valid_bits(plane.remainder, p.channels);
  p.output[int64_t{pixel} * p.words + word] = bits;
}

}  // namespace mbu::cuda
