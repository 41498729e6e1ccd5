// The kernels that are linked in, by name: those of ops/csrc/cuda/kernels.inc that some object defines, from
// their source or from their PTX.
#pragma once
#include <cstdint>
#include <string>

namespace emu {

struct Kernel {
  const char* name;
  bool linked;
  void (*call)(const void* params);  // the body of one thread
  uint32_t threads, shared_bytes;
  int tile_pixels, tile_channels;
};

// Null where no such kernel is linked.
const Kernel* find_kernel(const std::string& name);

// Whether a kernel runs on a main loop of CUTLASS, which loads fragments beyond the last step.
inline bool loads_ahead(const std::string& name) {
  return name.starts_with("gemm_") || name.starts_with("wide_");
}

}  // namespace emu
