#include "cuda/weight.h"

#include <algorithm>
#include <bit>

namespace mbu::cuda {
namespace {

void place_bits(const DeviceWeight& w, Word sign, Word mask, int64_t channel, int64_t k, Word* data) {
  const Word pos = sign, neg = mask & ~sign;
  const bool by_xor = w.layout == DeviceLayout::xor_popc;
  data[channel * w.row() + k] = by_xor ? neg : pos;
  data[(w.padded_channels() + channel) * w.row() + k] = by_xor ? ~pos : neg;
}

void place_bytes(const DeviceWeight& w, Word sign, Word mask, int64_t channel, int64_t k, Word* data) {
  auto* bytes =
      reinterpret_cast<int8_t*>(data) + ((k * w.padded_channels() + channel) / 8 * 32 + channel % 8 * 4) * 8;
  for (int input = 0; input < kWordBits; ++input) {
    // input = 2 t + r + 8 i: lane t of the channel's four, register r, byte i
    const int lane = input % 8 / 2, part = input % 2, byte = input / 8;
    const int value = (mask >> input & 1) ? ((sign >> input & 1) ? 1 : -1) : 0;
    bytes[lane * 8 + part * 4 + byte] = static_cast<int8_t>(value);
  }
}

}  // namespace

bool is_binary(const Word* planes, const DeviceWeight& w) {
  const int64_t plane = w.out_channels * w.taps * w.words;
  return std::all_of(planes + plane, planes + 2 * plane, [](Word mask) { return mask == ~Word{0}; });
}

void lay_out_weight(const Word* planes, const DeviceWeight& w, int32_t* to) {
  std::fill(to, to + w.size(), 0);
  const int64_t padded = w.padded_channels(), plane = w.out_channels * w.taps * w.words;
  int32_t *base = to + w.base(), *weight_sum = to + w.weight_sum();
  auto* data = reinterpret_cast<Word*>(to + w.data());
  const bool binary = is_binary(planes, w);
  // Channels that only pad hold no weight; with xor their ~pos would count too, and nobody reads them.
  for (int64_t channel = 0; channel < w.out_channels; ++channel) {
    for (int64_t tap = 0; tap < w.taps; ++tap) {
      int32_t nnz = 0, positive = 0;
      for (int64_t i = 0; i < w.words; ++i) {
        const int64_t k = tap * w.words + i;
        const Word* source = planes + channel * w.taps * w.words + k;
        const Word mask = source[plane], sign = source[0] & mask;
        nnz += std::popcount(mask);
        positive += std::popcount(sign);
        if (w.layout == DeviceLayout::int8)
          place_bytes(w, sign, mask, channel, k, data);
        else
          place_bits(w, sign, mask, channel, k, data);
      }
      const int32_t sum = 2 * positive - nnz;
      const int32_t counted = w.layout == DeviceLayout::xor_popc ? static_cast<int32_t>(w.words * kWordBits)
                              : w.layout == DeviceLayout::and_popc && !binary ? nnz
                                                                              : sum;
      weight_sum[tap * padded + channel] = sum;
      base[tap * padded + channel] = -counted;
      base[w.taps * padded + channel] -= counted;
    }
  }
}

}  // namespace mbu::cuda
