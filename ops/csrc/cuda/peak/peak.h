// Tensor-core products on registers alone: what an instruction reaches where nothing holds it up.
#pragma once
#include "cuda/arithmetic.h"
#include "cuda/conv2d/multiply.h"

namespace mbu::cuda {

// Each thread writes the total of its sums, so that no product can be left out and a wrong rate would show as
// a wrong number: with a = -b in every place, and ones in bytes, a product adds the length of its K to each
// of them.
template <class Form>
MBU_DEVICE void run_peak(const PeakParams& p, Word a_word, Word b_word) {
  const Word a[4] = {a_word, a_word, a_word, a_word};
  int32_t sums[kPeakChains][4] = {};
#pragma unroll 1
  for (int32_t round = 0; round < p.rounds; ++round)
#pragma unroll
    for (int chain = 0; chain < kPeakChains; ++chain) Form::mma(sums[chain], a, b_word, b_word);
  int32_t total = 0;
#pragma unroll
  for (int chain = 0; chain < kPeakChains; ++chain)
#pragma unroll
    for (int e = 0; e < 4; ++e) total += sums[chain][e];
  p.output[block_x() * kPeakThreads + thread_index()] = total;
}

struct S8Sm80 {
  static MBU_DEVICE void mma(int32_t (&c)[4], const Word (&a)[4], Word b0, Word b1) {
    mma_s8_m16n8k32(c, a, b0, b1);
  }
};

}  // namespace mbu::cuda

#define MBU_PEAK(name, form, a_word, b_word)                       \
  MBU_KERNEL void __launch_bounds__(mbu::cuda::kPeakThreads)       \
      name(const __grid_constant__ mbu::cuda::PeakParams params) { \
    mbu::cuda::run_peak<mbu::cuda::form>(params, a_word, b_word);  \
  }
