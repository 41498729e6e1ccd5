// The types in which floats lie in memory. Arithmetic is in float32; a stream is rounded once, where it is
// stored.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace mbu {

// fixed8: int8, in sixteenths.
enum class FloatType { f32, bf16, f16, fixed8 };

using Bfloat16 = uint16_t;  // the upper half of a float32
using Fixed8 = int8_t;
constexpr Bfloat16 kBfloat16Nan = 0x7fc0;
constexpr float kFixed8Steps = 16, kFixed8Step = 1 / kFixed8Steps;

inline int64_t size_of(FloatType type) {
  return type == FloatType::f32 ? 4 : type == FloatType::fixed8 ? 1 : 2;
}

// Calls `with` with a value of the type, any but f16.
template <class With>
__attribute__((always_inline)) inline void of_type(FloatType type, const With& with) {
  if (type == FloatType::bf16) return with(Bfloat16{});
  type == FloatType::fixed8 ? with(Fixed8{}) : with(float{});
}

// The address of an element of a type that is known at run time.
inline const void* at(const void* data, int64_t element, FloatType type) {
  return static_cast<const char*>(data) + element * size_of(type);
}

inline void* at(void* data, int64_t element, FloatType type) {
  return static_cast<char*>(data) + element * size_of(type);
}

inline float widen(float value) {
  return value;
}

inline float widen(Bfloat16 value) {
  return std::bit_cast<float>(uint32_t{value} << 16);
}

inline float widen(Fixed8 value) {
  return static_cast<float>(value) * kFixed8Step;
}

inline void narrow(float value, float& to) {
  to = value;
}

// To nearest, ties to even: the upper half grows by one where the lower is more than half of its range, or
// just half and the upper half odd. NaN stays NaN.
inline void narrow(float value, Bfloat16& to) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  to = value != value ? kBfloat16Nan : static_cast<Bfloat16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// To nearest, ties to even, as near as the type reaches; NaN becomes the least.
inline void narrow(float value, Fixed8& to) {
  const float steps = value * kFixed8Steps;
  to = static_cast<Fixed8>(steps >= 127 ? 127.0f : steps > -128 ? std::nearbyint(steps) : -128.0f);
}

// The least float32 that is at least `threshold` once it is rounded to `type`, so that y can be compared
// before it is; NaN, which nothing reaches, where there is none.
inline float least_to_store(float threshold, FloatType type) {
  if (threshold != threshold || type == FloatType::f32) return threshold;
  if (type == FloatType::fixed8) {
    const float steps = std::ceil(threshold * kFixed8Steps);
    if (steps > 127) return NAN;
    if (steps <= -128) return -INFINITY;
    const float half = (steps - 0.5f) * kFixed8Step;  // between it and the one below, ties go to the even one
    return std::fmod(steps, 2.0f) == 0 ? half : std::nextafter(half, INFINITY);
  }
  constexpr uint32_t kSign = 0x80000000, kInfinity = 0x7f80;
  const uint32_t bits = std::bit_cast<uint32_t>(threshold);
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
