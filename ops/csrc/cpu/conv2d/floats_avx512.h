// 32 float values in AVX-512 registers: read and written in every type of a stream.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <immintrin.h>

#include "cpu/unroll.h"
#include "mbu/float_type.h"

namespace mbu {
namespace {

MBU_INLINE __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}

constexpr __mmask32 kUpperHalves = 0xaaaaaaaa;  // of 16 floats

// 32 channels of a pixel, as two halves; channels that are not `valid` are 0.
struct Floats {
  __m512 low, high;
};

MBU_INLINE Floats to_floats(__m512i low, __m512i high) {
  return {_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high)};
}

MBU_INLINE Floats load_floats(const float* from, __mmask32 valid) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(valid), from),
          _mm512_maskz_loadu_ps(static_cast<__mmask16>(valid >> 16), from + 16)};
}

MBU_INLINE Floats load_floats(const Bfloat16* from, __mmask32 valid) {
  const __m512i halves = _mm512_maskz_loadu_epi16(valid, from);
  const auto floats = [&](__m512i order) MBU_LAMBDA {  // each to the upper half of its float
    return _mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(kUpperHalves, _mm512_slli_epi32(order, 16), halves));
  };
  const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {floats(order), floats(_mm512_add_epi32(order, _mm512_set1_epi32(16)))};
}

// As whole numbers of sixteenths: the factor comes later, where it costs nothing.
MBU_INLINE Floats load_floats(const Fixed8* from, __mmask32 valid) {
  const auto floats = [](__m128i half) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(half)); };
  return {floats(_mm_maskz_loadu_epi8(static_cast<__mmask16>(valid), from)),
          floats(_mm_maskz_loadu_epi8(static_cast<__mmask16>(valid >> 16), from + 16))};
}

MBU_INLINE void store_floats(float* to, Floats y, __mmask32 valid) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(valid), y.low);
  _mm512_mask_storeu_ps(to + 16, static_cast<__mmask16>(valid >> 16), y.high);
}

// As `narrow` in mbu/float_type.h.
MBU_INLINE __m512i narrowed(Floats y) {
#if defined(__AVX512BF16__)
  // The instruction takes denormals for zero and keeps the bits of a NaN: neither is what `narrow` does.
  constexpr int kQuiet = 0x01, kDenormal = 0x20, kSignalling = 0x80,
                kSpecial = kQuiet | kDenormal | kSignalling;
  if (!(_mm512_fpclass_ps_mask(y.low, kSpecial) | _mm512_fpclass_ps_mask(y.high, kSpecial)))
    return (__m512i)_mm512_cvtne2ps_pbh(y.high, y.low);
#endif
  const auto rounded = [](__m512i bits) MBU_LAMBDA {
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  };
  __m512i low = rounded(_mm512_castps_si512(y.low)), high = rounded(_mm512_castps_si512(y.high));
  if (_mm512_cmp_ps_mask(y.low, y.high, _CMP_UNORD_Q)) {  // seldom: then lane by lane
    const __m512i nan = _mm512_set1_epi32(kBfloat16Nan << 16);
    low = _mm512_mask_mov_epi32(low, _mm512_cmp_ps_mask(y.low, y.low, _CMP_UNORD_Q), nan);
    high = _mm512_mask_mov_epi32(high, _mm512_cmp_ps_mask(y.high, y.high, _CMP_UNORD_Q), nan);
  }
  // The upper halves, low and high in turn, then those of `low` first.
  const __m512i pairs = _mm512_mask_blend_epi16(kUpperHalves, _mm512_srli_epi32(low, 16), high);
  const __m512i order = _mm512_setr_epi32(
      0x00020000, 0x00060004, 0x000a0008, 0x000e000c, 0x00120010, 0x00160014, 0x001a0018, 0x001e001c,
      0x00030001, 0x00070005, 0x000b0009, 0x000f000d, 0x00130011, 0x00170015, 0x001b0019, 0x001f001d);
  return _mm512_permutexvar_epi16(order, pairs);
}

MBU_INLINE void store_floats(Bfloat16* to, Floats y, __mmask32 valid) {
  _mm512_mask_storeu_epi16(to, valid, narrowed(y));
}

// As `narrow`, of y in sixteenths: what is too small for an integer, and NaN, becomes the least one and stays
// it.
MBU_INLINE void store_steps(Fixed8* to, Floats y, __mmask32 valid) {
  const __m512 most = _mm512_set1_ps(127);
  const __m512i low = _mm512_cvtps_epi32(_mm512_min_ps(most, y.low));
  const __m512i high = _mm512_cvtps_epi32(_mm512_min_ps(most, y.high));
  const __m512i halves = _mm512_packs_epi32(low, high);  // by lanes of 128 bits, as are bytes
  const __m512i bytes = _mm512_packs_epi16(halves, halves);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm256_mask_storeu_epi8(to, valid, _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, bytes)));
}

MBU_INLINE Floats operator*(Floats a, float b) {
  return {_mm512_mul_ps(a.low, _mm512_set1_ps(b)), _mm512_mul_ps(a.high, _mm512_set1_ps(b))};
}

MBU_INLINE void store_floats(Fixed8* to, Floats y, __mmask32 valid) {
  store_steps(to, y * kFixed8Steps, valid);
}

// All 32 channels, from the start of a line on: past the caches, which would read the line first.
MBU_INLINE void store_past(float* to, Floats y) {
  _mm512_stream_ps(to, y.low);
  _mm512_stream_ps(to + 16, y.high);
}

MBU_INLINE void store_past(Bfloat16* to, Floats y) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), narrowed(y));
}

// Lane by lane; a NaN stays where it is the first.
MBU_INLINE Floats larger(Floats a, Floats b) {
  return {_mm512_max_ps(b.low, a.low), _mm512_max_ps(b.high, a.high)};
}

MBU_INLINE Floats operator+(Floats a, Floats b) {
  return {_mm512_add_ps(a.low, b.low), _mm512_add_ps(a.high, b.high)};
}

MBU_INLINE Floats fused(Floats y, Floats factor, Floats offset) {
  return {_mm512_fmadd_ps(y.low, factor.low, offset.low), _mm512_fmadd_ps(y.high, factor.high, offset.high)};
}

MBU_INLINE Floats fused(Floats y, float factor, Floats offset) {
  return fused(y, Floats{_mm512_set1_ps(factor), _mm512_set1_ps(factor)}, offset);
}

MBU_INLINE Floats without_negative(Floats y) {  // keeps NaN, the second operand
  const __m512 zero = _mm512_setzero_ps();
  return {_mm512_max_ps(zero, y.low), _mm512_max_ps(zero, y.high)};
}

}  // namespace
}  // namespace mbu
