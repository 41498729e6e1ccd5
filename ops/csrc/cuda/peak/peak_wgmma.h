// The same rates as peak.h measures, of products by warpgroups. Not yet run on hardware.
#pragma once
#include "cuda/arithmetic.h"
#include "cuda/wgmma.h"

namespace mbu::cuda {

// Operands are read from shared memory at every step, as the instruction has it, and are the same word
// everywhere: a product adds the length of its K to each sum. Sums of one thread wait for each other; two
// warpgroups of a block fill each other's gaps.
template <class Form>
MBU_DEVICE void run_wgmma_peak(const PeakParams& p, Word word) {
  constexpr uint32_t kRowBytes = 32, kBlockBytes = 128, kRows = 64, kColumns = 256;
  constexpr uint32_t kBytes = (kRows + kColumns) * kRowBytes;  // as in kernels.inc
  for (uint32_t at = 16 * static_cast<uint32_t>(thread_index()); at < kBytes; at += 16 * kPeakThreads)
    store_shared(at, Words<4>{{word, word, word, word}});
  publish_shared();
  barrier();
  const uint64_t a = describe_matrix(0, kBlockBytes, 2 * kBlockBytes),
                 b = describe_matrix(kRows * kRowBytes, kBlockBytes, 2 * kBlockBytes);
  int32_t sums[kWgmmaSums] = {};
#pragma unroll 1
  for (int32_t round = 0; round < p.rounds; ++round) {
    begin_wgmma(sums);
#pragma unroll
    for (int step = 0; step < kPeakChains; ++step) Form::mma(sums, a, b);
    finish_wgmma(sums);
  }
  int32_t total = 0;
#pragma unroll
  for (int i = 0; i < kWgmmaSums; ++i) total += sums[i];
  p.output[block_x() * kPeakThreads + thread_index()] = total;
}

struct WgmmaAnd {
  static MBU_DEVICE void mma(int32_t (&c)[kWgmmaSums], uint64_t a, uint64_t b) {
    wgmma_and_m64n256k256(c, a, b);
  }
};
struct WgmmaS8 {
  static MBU_DEVICE void mma(int32_t (&c)[kWgmmaSums], uint64_t a, uint64_t b) {
    wgmma_s8_m64n256k32(c, a, b);
  }
};

}  // namespace mbu::cuda

#define MBU_WGMMA_PEAK(name, form, word)                           \
  MBU_KERNEL void __launch_bounds__(mbu::cuda::kPeakThreads)       \
      name(const __grid_constant__ mbu::cuda::PeakParams params) { \
    mbu::cuda::run_wgmma_peak<mbu::cuda::form>(params, word);      \
  }
