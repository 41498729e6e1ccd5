// Stands in for ops/csrc/cuda/wgmma.h where kernels are compiled for the CPU.
#pragma once
#include "cuda/ptx.h"

namespace mbu::cuda {

constexpr int kWgmmaSums = emu::kWgmmaSums;

inline uint64_t describe_matrix(uint32_t offset, uint32_t along_k, uint32_t along_rows) {
  return (offset & 0x3ffff) >> 4 | static_cast<uint64_t>(along_k >> 4) << 16 |
         static_cast<uint64_t>(along_rows >> 4) << 32;
}
inline void publish_shared() {}
inline void begin_wgmma(int32_t (&)[kWgmmaSums]) {}
inline void finish_wgmma(int32_t (&)[kWgmmaSums]) {}

inline void wgmma_and_m64n256k256(int32_t (&c)[kWgmmaSums], uint64_t a, uint64_t b) {
  emu::wgmma_m64n256(emu::Product::and_popc, c, a, b);
}
inline void wgmma_s8_m64n256k32(int32_t (&c)[kWgmmaSums], uint64_t a, uint64_t b) {
  emu::wgmma_m64n256(emu::Product::s8, c, a, b);
}

}  // namespace mbu::cuda
