// A vector of floats of the instruction set that a file is compiled for, and the few operations on it that
// the compiler's own vectors do not offer. Vectors in memory need not be aligned.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "mbu/float_type.h"
#include "mbu/types.h"

namespace mbu {
namespace {

#if defined(__AVX512F__)
typedef float Lanes __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef float Lanes __attribute__((vector_size(32)));
#elif defined(__aarch64__)
typedef float32x4_t Lanes;
#else
typedef float Lanes __attribute__((vector_size(16)));
#endif

constexpr int64_t kLanes = sizeof(Lanes) / sizeof(float);

inline Lanes load(const float* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Lanes v) {
  std::memcpy(p, &v, sizeof v);
}

typedef uint32_t LaneWords __attribute__((vector_size(sizeof(Lanes))));
typedef Bfloat16 LaneHalves __attribute__((vector_size(sizeof(Lanes) / 2)));

inline Lanes load(const Bfloat16* p) {
  LaneHalves halves;
  std::memcpy(&halves, p, sizeof halves);
  return std::bit_cast<Lanes>(__builtin_convertvector(halves, LaneWords) << 16);
}

// Rounds as `narrow` does.
inline void store(Bfloat16* p, Lanes v) {
  const LaneWords bits = std::bit_cast<LaneWords>(v);
  const LaneWords rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const LaneHalves halves =
      __builtin_convertvector(v == v ? rounded : LaneWords{} + kBfloat16Nan, LaneHalves);
  std::memcpy(p, &halves, sizeof halves);
}

typedef int32_t LaneIntegers __attribute__((vector_size(sizeof(Lanes))));
typedef Fixed8 LaneBytes __attribute__((vector_size(sizeof(Lanes) / 4)));

inline Lanes load(const Fixed8* p) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)) * kFixed8Step;
#elif defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)) * kFixed8Step;
#else
  LaneBytes bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, LaneIntegers), Lanes) * kFixed8Step;
#endif
}

// Rounds as `narrow` does.
inline void store(Fixed8* p, Lanes v) {
  const Lanes steps = v * kFixed8Steps;
#if defined(__AVX512F__)
  const __m512 inside = _mm512_min_ps(_mm512_max_ps(steps, _mm512_set1_ps(-128)),
                                      _mm512_set1_ps(127));  // NaN: the second operand
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(inside)));
#elif defined(__AVX2__)
  const __m256 inside = _mm256_min_ps(_mm256_max_ps(steps, _mm256_set1_ps(-128)), _mm256_set1_ps(127));
  const __m256i whole = _mm256_cvtps_epi32(inside);
  const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(halves, halves));
#else
  constexpr float kWhole =
      0x1.8p23f;  // from there on floats have no fraction: a sum is rounded to a whole number
  const Lanes least = steps > -128 ? steps : Lanes{} - 128;  // NaN too
  const Lanes whole = (least < 127 ? least : Lanes{} + 127) + kWhole - kWhole;
  const LaneBytes bytes = __builtin_convertvector(__builtin_convertvector(whole, LaneIntegers), LaneBytes);
  std::memcpy(p, &bytes, sizeof bytes);
#endif
}

// To where a line starts, or goes on after such a store: past the caches, which would read the line first.
// Another thread sees it after `end_past`.
inline void store_past(float* p, Lanes v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, v);
#else
  store(p, v);
#endif
}

inline void store_past(Bfloat16* p, Lanes v) {
#if defined(__AVX512F__)
  __m256i halves;
  store(reinterpret_cast<Bfloat16*>(&halves), v);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), halves);
#else
  store(p, v);
#endif
}

inline void store_past(Fixed8* p, Lanes v) {  // less than a line of a tile: never asked for
  store(p, v);
}

inline void end_past() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

// The first `count` lanes, 0 to kLanes; the others are 0.
inline Lanes load_some(const float* p, int64_t count) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#elif defined(__AVX2__)
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane));
#else
  Lanes v{};
  for (int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
#endif
}

template <class Value>
inline Lanes load_some(const Value* p, int64_t count) {
  Lanes v{};
  for (int64_t i = 0; i < count; ++i) v[i] = widen(p[i]);
  return v;
}

// The first `count` lanes, 0 to kLanes.
inline void store_some(float* p, Lanes v, int64_t count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
#elif defined(__AVX2__)
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane), v);
#else
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
#endif
}

template <class Value>
inline void store_some(Value* p, Lanes v, int64_t count) {
  for (int64_t i = 0; i < count; ++i) narrow(v[i], p[i]);
}

inline Lanes larger(Lanes a, Lanes b) {
  return a < b ? b : a;
}

// The same value in every lane.
inline Lanes spread(float value) {
#if defined(__AVX512F__)
  return _mm512_set1_ps(value);
#elif defined(__AVX2__)
  return _mm256_set1_ps(value);
#elif defined(__aarch64__)
  return vdupq_n_f32(value);
#else
  return Lanes{value, value, value, value};
#endif
}

// a * b + c, rounded once.
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  for (int64_t i = 0; i < kLanes; ++i) a[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return a;
#endif
}

inline float sum_of(Lanes v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#elif defined(__AVX2__)
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#elif defined(__aarch64__)
  return vaddvq_f32(v);
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

// Bit i: a[i] >= b[i]. NaN is below everything.
inline Word reaches(Lanes a, Lanes b) {
#if defined(__AVX512F__)
  return _cvtmask16_u32(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ));
#elif defined(__AVX2__)
  return static_cast<Word>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
#elif defined(__aarch64__)
  const uint32x4_t place = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(vcgeq_f32(a, b), place));
#else
  Word bits = 0;
  for (int64_t i = 0; i < kLanes; ++i) bits |= static_cast<Word>(a[i] >= b[i]) << i;
  return bits;
#endif
}

}  // namespace
}  // namespace mbu
