// bfloat16 as a word of 16 bits: the upper half of a float32.
#pragma once
#include <bit>
#include <cstdint>

namespace mbu {

using Bfloat16 = uint16_t;
constexpr Bfloat16 kBfloat16Nan = 0x7fc0;

inline float widen(float value) {
  return value;
}

inline float widen(Bfloat16 value) {
  return std::bit_cast<float>(uint32_t{value} << 16);
}

// To nearest, ties to even: the upper half grows by one where the lower is more than half of its range, or
// just half and the upper half odd. NaN stays NaN.
inline Bfloat16 narrow(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return kBfloat16Nan;
  return static_cast<Bfloat16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace mbu
