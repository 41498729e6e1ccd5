// The instructions that C++ has no word for, one function each. Kernels reach shared memory, other lanes and
// the tensor cores through this page alone, so that tests can put an emulated page in its place
// (tests/ops/cuda/emulator). Shared addresses are bytes from the start of dynamic shared memory.
#pragma once
#include "cuda/integers.h"

#define MBU_DEVICE __device__ __forceinline__
#define MBU_KERNEL extern "C" __global__

namespace mbu::cuda {

template <int kCount>
struct alignas(4 * kCount) Words {
  Word word[kCount];
};

MBU_DEVICE uint32_t shared_address(uint32_t offset) {
  extern __shared__ __align__(128) unsigned char mbu_shared[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(mbu_shared)) + offset;
}

MBU_DEVICE int thread_index() {
  return static_cast<int>(threadIdx.x);
}
MBU_DEVICE int block_x() {
  return static_cast<int>(blockIdx.x);
}
MBU_DEVICE int block_y() {
  return static_cast<int>(blockIdx.y);
}
MBU_DEVICE int block_z() {
  return static_cast<int>(blockIdx.z);
}

MBU_DEVICE void barrier() {
  __syncthreads();
}
MBU_DEVICE uint32_t shuffle_xor(uint32_t value, int lanes) {
  return __shfl_xor_sync(0xffffffffu, value, lanes);
}
MBU_DEVICE int32_t count_bits(Word word) {
  return __popc(word);
}
MBU_DEVICE uint32_t ballot(bool value) {
  return __ballot_sync(0xffffffffu, value);
}
MBU_DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) {
  return __umulhi(a, b);
}
MBU_DEVICE float multiply_add(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
// Never contracted into a multiply-add, whatever the compiler's flags.
MBU_DEVICE float add(float a, float b) {
  return __fadd_rn(a, b);
}
MBU_DEVICE float divide(float a, float b) {
  return __fdiv_rn(a, b);
}
MBU_DEVICE int32_t round_to_int(float value) {  // to nearest, ties to even
  return __float2int_rn(value);
}
MBU_DEVICE uint32_t float_bits(float value) {
  return __float_as_uint(value);
}
MBU_DEVICE float bits_float(uint32_t bits) {
  return __uint_as_float(bits);
}
MBU_DEVICE float half_to_float(uint16_t half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}
MBU_DEVICE uint16_t float_to_half(float value) {
  uint16_t half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
}

template <int kCount>
MBU_DEVICE Words<kCount> load_shared(uint32_t offset) {
  Words<kCount> v;
  const uint32_t from = shared_address(offset);
  if constexpr (kCount == 4)
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "r"(from)
                 : "memory");
  else if constexpr (kCount == 2)
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
                 : "=r"(v.word[0]), "=r"(v.word[1])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v.word[0]) : "r"(from) : "memory");
  return v;
}

template <int kCount>
MBU_DEVICE void store_shared(uint32_t offset, Words<kCount> v) {
  const uint32_t to = shared_address(offset);
  if constexpr (kCount == 4)
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.word[0]), "r"(v.word[1]),
                 "r"(v.word[2]), "r"(v.word[3])
                 : "memory");
  else if constexpr (kCount == 2)
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(v.word[0]), "r"(v.word[1]) : "memory");
  else
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(v.word[0]) : "memory");
}

// Four 8x8 matrices of 16-bit elements, which here are 8 rows of 4 words: lane i gives the address of row
// i % 8 of matrix i / 8 and receives word lane % 4 of row lane / 4 of every matrix.
MBU_DEVICE void load_matrix_x4(Word (&m)[4], uint32_t offset) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(offset))
               : "memory");
}

// Copies 4 * kCount bytes, or writes as many zeros where `present` is false; lands at the latest when a wait
// covers its group.
template <int kCount>
MBU_DEVICE void copy_async(uint32_t offset, const Word* from, bool present) {
  const int bytes = present ? 4 * kCount : 0;
  if constexpr (kCount == 4)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(offset)), "l"(from),
                 "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(offset)), "l"(from),
                 "r"(bytes), "n"(4 * kCount)
                 : "memory");
}
MBU_DEVICE void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
MBU_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// c[row, column] += popc(a[row] op b[column]) over 256 bits. Lane l holds rows l / 4 and l / 4 + 8 of a and
// c, column l / 4 of b, columns 2 * (l % 4) and the next of c; words l % 4 and l % 4 + 4 of a row.
MBU_DEVICE void mma_xor_m16n8k256(int32_t (&c)[4], const Word (&a)[4], Word b0, Word b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
MBU_DEVICE void mma_and_m16n8k256(int32_t (&c)[4], const Word (&a)[4], Word b0, Word b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The first half of the bits alone: words l % 4 of rows l / 4 and l / 4 + 8, and of column l / 4.
MBU_DEVICE void mma_xor_m16n8k128(int32_t (&c)[4], Word a0, Word a1, Word b) {
  asm volatile(
      "mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.xor.popc {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(b));
}
MBU_DEVICE void mma_and_m16n8k128(int32_t (&c)[4], Word a0, Word a1, Word b) {
  asm volatile(
      "mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(b));
}
// The same as the first with 32 signed bytes in place of 256 bits and products in place of popc(a op b).
MBU_DEVICE void mma_s8_m16n8k32(int32_t (&c)[4], const Word (&a)[4], Word b0, Word b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Half the rows and half the bits: row and column l / 4, word l % 4.
MBU_DEVICE void mma_xor_m8n8k128(int32_t& c0, int32_t& c1, Word a, Word b) {
  asm volatile("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+r"(c0), "+r"(c1)
               : "r"(a), "r"(b));
}

}  // namespace mbu::cuda
