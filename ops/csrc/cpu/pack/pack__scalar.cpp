// The portable pack and unpack, for any strides.
#include <bit>
#include <cstring>

#include "cpu/kernels.h"

namespace mbu {
namespace {

float to_float(float x) {
  return x;
}

float to_float(Bfloat16 x) {
  return widen(x);
}

float to_float(Fixed8 x) {
  return widen(x);
}

struct Float16 {
  uint16_t bits;
};
float to_float(Float16 x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16, rest = x.bits & 0x7fffu;
  // Shifted into place, a half reads as a float whose exponent is 112 too small; the product with 2^112 puts
  // that right, for subnormal halves too. Infinity and NaN have the largest exponent in both formats.
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (rest << 13));
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(rest << 13) * 0x1p112f));
}

template <class T>
void pack(const PackRow& r) {
  const T* pixel = static_cast<const T*>(r.input);
  Word* output = r.output;
  for (int64_t i = 0; i < r.pixels; ++i, pixel += r.stride_w) {
    for (int64_t first = 0; first < r.channels; first += kWordBits) {
      const int64_t count = r.channels - first < kWordBits ? r.channels - first : kWordBits;
      Word word = 0;
      for (int64_t c = 0; c < count; ++c) {
        const float x = to_float(pixel[(first + c) * r.stride_c]);
        word |= static_cast<Word>(x >= r.threshold[first + c]) << c;
      }
      *output++ = word ^ r.flip[first / kWordBits];
    }
  }
}

}  // namespace

void pack__scalar(const PackRow& r) {
  if (r.type == FloatType::f32) return pack<float>(r);
  if (r.type == FloatType::bf16) return pack<Bfloat16>(r);
  if (r.type == FloatType::fixed8) return pack<Fixed8>(r);
  pack<Float16>(r);
}

void unpack__scalar(const UnpackRow& r) {
  const Word* pixel = r.input;
  float* output = r.output;
  for (int64_t i = 0; i < r.pixels; ++i, pixel += r.stride_w)
    for (int64_t c = 0; c < r.channels; ++c)
      *output++ = pixel[c / kWordBits] >> (c % kWordBits) & 1 ? 1.0f : -1.0f;
}

}  // namespace mbu
