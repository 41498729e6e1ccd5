// Small arithmetic that several kernels share.
#pragma once
#include "cuda/params.h"
#include "cuda/ptx.h"

namespace mbu::cuda {

constexpr int kWarpLanes = 32;
constexpr int kFlatThreads = 256;  // of a block of the kernels that run over a flat list

struct Quotient {
  int32_t quotient, remainder;
};

MBU_DEVICE int32_t quotient_of(int32_t value, const Divide& by) {
  if (by.multiplier == 0) return value;
  return static_cast<int32_t>(multiply_high(static_cast<uint32_t>(value), by.multiplier) >> by.shift);
}

MBU_DEVICE Quotient divide_by(int32_t value, const Divide& by) {
  const int32_t quotient = quotient_of(value, by);
  return {quotient, value - quotient * static_cast<int32_t>(by.divisor)};
}

struct Place {
  int32_t n, y, x;
};

// Pixel number `index` of a batch of images.
MBU_DEVICE Place place_of(int32_t index, const Divide& by_width, const Divide& by_height) {
  const Quotient x = divide_by(index, by_width), y = divide_by(x.quotient, by_height);
  return {y.quotient, y.remainder, x.remainder};
}

MBU_DEVICE bool outside(int32_t at, int32_t size) {
  return static_cast<uint32_t>(at) >= static_cast<uint32_t>(size);
}

// The bits of a word that belong to one of `channels` channels.
MBU_DEVICE Word valid_bits(int32_t word, int32_t channels) {
  const int32_t left = channels - 32 * word;
  return left >= 32 ? ~Word{0} : left <= 0 ? Word{0} : (Word{1} << left) - 1;
}

MBU_DEVICE float bfloat_to_float(uint16_t value) {
  return bits_float(static_cast<uint32_t>(value) << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
MBU_DEVICE uint16_t float_to_bfloat(float value) {
  const uint32_t bits = float_bits(value);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// int8 in sixteenths, to nearest, ties to even, as near as it reaches.
MBU_DEVICE int8_t float_to_fixed(float value) {
  const float steps = value * 16.0f;
  return static_cast<int8_t>(steps >= 127.0f ? 127 : steps > -128.0f ? round_to_int(steps) : -128);
}

MBU_DEVICE float fixed_to_float(int8_t value) {
  return static_cast<float>(value) * 0.0625f;
}

MBU_DEVICE float load_float(const void* data, int64_t index, FloatKind kind) {
  if (kind == FloatKind::f32) return static_cast<const float*>(data)[index];
  if (kind == FloatKind::fixed8) return fixed_to_float(static_cast<const int8_t*>(data)[index]);
  const uint16_t value = static_cast<const uint16_t*>(data)[index];
  return kind == FloatKind::bf16 ? bfloat_to_float(value) : half_to_float(value);
}

// The nearest value that memory of that kind can hold.
MBU_DEVICE float round_to(float value, FloatKind kind) {
  if (kind == FloatKind::f32) return value;
  if (kind == FloatKind::fixed8) return fixed_to_float(float_to_fixed(value));
  return kind == FloatKind::bf16 ? bfloat_to_float(float_to_bfloat(value))
                                 : half_to_float(float_to_half(value));
}

MBU_DEVICE void store_float(void* data, int64_t index, FloatKind kind, float value) {
  if (kind == FloatKind::f32)
    static_cast<float*>(data)[index] = value;
  else if (kind == FloatKind::fixed8)
    static_cast<int8_t*>(data)[index] = float_to_fixed(value);
  else
    static_cast<uint16_t*>(data)[index] =
        kind == FloatKind::bf16 ? float_to_bfloat(value) : float_to_half(value);
}

MBU_DEVICE int32_t flat_index() {
  return block_x() * kFlatThreads + thread_index();
}

}  // namespace mbu::cuda
