// The layouts of a weight for the tensor cores, made on the host from the two planes of mbu/types.h.
#pragma once
#include <cstdint>

#include "mbu/types.h"

namespace mbu::cuda {

// Which products a kernel's tensor-core instruction takes (cuda/conv2d/multiply.h). With taps and Cw as in
// mbu/types.h and OCp = OC rounded up to 32:
//   xor_popc:  [2][OCp][row] words, row = taps * Cw rounded up to 8; plane 0 is neg, plane 1 is ~pos; base =
//              -32 * Cw
//   and_popc:  the same with planes pos and neg; base = -nnz, or -sum of weights where none is zero
//   int8:      [taps * Cw][OCp / 8][32 lanes][2] words; byte i of register r of lane l is the weight of
//              channel l / 4 and input 2 * (l % 4) + r + 8 * i of the word; base = -sum of weights
// Words that only pad are 0 and add nothing in any of them.
enum class DeviceLayout : int32_t { xor_popc, and_popc, int8 };

// A device weight is one flat array of 32-bit words:
//   base [taps + 1][OCp] | weight_sum [taps][OCp] | data
// The last row of base sums the others; weight_sum is the sum of a tap's weights. Where `data` starts is a
// multiple of 32 words.
struct DeviceWeight {
  DeviceLayout layout;
  int64_t out_channels, taps, words;

  constexpr int64_t padded_channels() const { return words_of(out_channels) * kWordBits; }
  constexpr int64_t row() const { return (taps * words + 7) / 8 * 8; }
  constexpr int64_t base() const { return 0; }
  constexpr int64_t weight_sum() const { return (taps + 1) * padded_channels(); }
  constexpr int64_t data() const { return (2 * taps + 1) * padded_channels(); }
  constexpr int64_t size() const {
    return data() + padded_channels() * (layout == DeviceLayout::int8 ? taps * words * 8 : 2 * row());
  }
};

// dot = scale * accumulator + base, with the planes that are multiplied.
constexpr int32_t scale_of(DeviceLayout layout, int32_t planes) {
  return layout == DeviceLayout::xor_popc && planes == 2 ? 1 : 2;
}

// Whether no weight is zero and input channels fill their words. One plane says it all then:
// dot = 2 popc(a ^ neg) - K = 4 popc(a & pos) - 2 popc(a) - sum of weights.
bool is_binary(const Word* planes, const DeviceWeight& weight);

// `planes` is [2, OC, taps, Cw]: sign, mask; `to` has weight.size() words.
void lay_out_weight(const Word* planes, const DeviceWeight& weight, int32_t* to);

}  // namespace mbu::cuda
