// Stands in for ops/csrc/cuda/ptx.h where kernels are compiled for the CPU.
#pragma once
#include <cmath>
#include <cstring>

#include "cuda/integers.h"
#include "emulator.h"

#define MBU_DEVICE inline
#define MBU_KERNEL extern "C"
#define __launch_bounds__(...)
#define __grid_constant__

namespace mbu::cuda {

template <int kCount>
struct alignas(4 * kCount) Words {
  Word word[kCount];
};

inline int thread_index() {
  return static_cast<int>(emu::place().thread);
}
inline int block_x() {
  return static_cast<int>(emu::place().block[0]);
}
inline int block_y() {
  return static_cast<int>(emu::place().block[1]);
}
inline int block_z() {
  return static_cast<int>(emu::place().block[2]);
}

inline void barrier() {
  emu::barrier();
}
inline uint32_t shuffle_xor(uint32_t value, int lanes) {
  return emu::shuffle_xor(value, static_cast<uint32_t>(lanes));
}
inline int32_t count_bits(Word word) {
  return __builtin_popcount(word);
}
inline uint32_t ballot(bool value) {
  return emu::ballot(value);
}
inline uint32_t multiply_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
inline float multiply_add(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float add(float a, float b) {
  return a + b;
}
inline float divide(float a, float b) {
  return a / b;
}
inline int32_t round_to_int(float value) {
  return static_cast<int32_t>(std::nearbyint(value));
}
inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float bits_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline float half_to_float(uint16_t half) {
  return emu::half_to_float(half);
}
inline uint16_t float_to_half(float value) {
  return emu::float_to_half(value);
}

template <int kCount>
inline Words<kCount> load_shared(uint32_t offset) {
  Words<kCount> words;
  emu::load_shared(offset, &words, sizeof words);
  return words;
}
template <int kCount>
inline void store_shared(uint32_t offset, Words<kCount> words) {
  emu::store_shared(offset, &words, sizeof words);
}
inline void load_matrix_x4(Word (&m)[4], uint32_t offset) {
  emu::load_matrix_x4(m, offset);
}

template <int kCount>
inline void copy_async(uint32_t offset, const Word* from, bool present) {
  emu::copy_async(offset, from, 4 * kCount, present ? 4 * kCount : 0);
}
inline void commit_copies() {
  emu::commit_copies();
}
template <int kPending>
inline void wait_copies() {
  emu::wait_copies(kPending);
}

inline void mma_xor_m16n8k256(int32_t (&c)[4], const Word (&a)[4], Word b0, Word b1) {
  emu::mma_m16n8(emu::Product::xor_popc, c, a, b0, b1);
}
inline void mma_and_m16n8k256(int32_t (&c)[4], const Word (&a)[4], Word b0, Word b1) {
  emu::mma_m16n8(emu::Product::and_popc, c, a, b0, b1);
}
inline void mma_xor_m16n8k128(int32_t (&c)[4], Word a0, Word a1, Word b) {
  emu::mma_m16n8_half(emu::Product::xor_popc, c, {a0, a1}, b);
}
inline void mma_and_m16n8k128(int32_t (&c)[4], Word a0, Word a1, Word b) {
  emu::mma_m16n8_half(emu::Product::and_popc, c, {a0, a1}, b);
}
inline void mma_s8_m16n8k32(int32_t (&c)[4], const Word (&a)[4], Word b0, Word b1) {
  emu::mma_m16n8(emu::Product::s8, c, a, b0, b1);
}
inline void mma_xor_m8n8k128(int32_t& c0, int32_t& c1, Word a, Word b) {
  int32_t c[2] = {c0, c1};
  emu::mma_m8n8(emu::Product::xor_popc, c, a, b);
  c0 = c[0], c1 = c[1];
}

}  // namespace mbu::cuda
