// What translated PTX (tests/ops/cuda/translate.py) calls for loads, stores and shifts.
#pragma once
#include <cstdint>
#include <cstring>

#include "emulator.h"

namespace emu {

inline void load_param(uint64_t at, void* to, uint32_t bytes) {
  std::memcpy(to, reinterpret_cast<const void*>(at), bytes);
}
inline void load_global(uint64_t at, void* to, uint32_t bytes) {
  check_global(reinterpret_cast<const void*>(at), bytes, false);
  std::memcpy(to, reinterpret_cast<const void*>(at), bytes);
}
inline void store_global(uint64_t at, const void* from, uint32_t bytes) {
  check_global(reinterpret_cast<const void*>(at), bytes, true);
  std::memcpy(reinterpret_cast<void*>(at), from, bytes);
}
inline float bits_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// The lowest `length` bits of `bits` in `into`, from bit `first` on.
inline uint32_t insert_bits(uint32_t bits, uint32_t into, uint32_t first, uint32_t length) {
  const uint32_t mask = static_cast<uint32_t>(((uint64_t{1} << length) - 1) << first);
  return (bits << first & mask) | (into & ~mask);
}

// A shift by the width or more gives 0, or the sign.
template <class T>
T shift_left(T value, uint32_t by) {
  return by >= 8 * sizeof(T) ? T{0} : static_cast<T>(value << by);
}
template <class T>
T shift_right(T value, uint32_t by) {
  constexpr uint32_t bits = 8 * sizeof(T);
  if (by >= bits) return value < 0 ? static_cast<T>(-1) : T{0};
  return static_cast<T>(value >> by);
}

}  // namespace emu
