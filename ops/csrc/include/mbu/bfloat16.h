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

// The least float32 y with narrow(y) >= threshold, so that y can be compared before it is rounded; for NaN,
// which nothing reaches, NaN.
inline float least_to_narrow(float threshold) {
  constexpr uint32_t kSign = 0x80000000, kInfinity = 0x7f80;
  const uint32_t bits = std::bit_cast<uint32_t>(threshold);
  if (threshold != threshold) return threshold;
  if (threshold > 0) {
    const uint32_t reached = (bits + 0xffff) >> 16;        // the least bfloat16 that is not below
    const uint32_t half = ((reached - 1) << 16) + 0x8000;  // between it and the one below
    return std::bit_cast<float>(half + (reached & 1));     // which ties go to the even one of
  }
  const uint32_t reached = (bits & ~kSign) >> 16;  // its magnitude
  if (reached == kInfinity) return threshold;
  return std::bit_cast<float>(kSign | ((reached << 16) + 0x8000 - (reached & 1)));
}

}  // namespace mbu
