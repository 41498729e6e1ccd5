#include "registry.h"

#include "cuda/params.h"

using namespace mbu::cuda;

// Weak: a kernel that no object defines is a null pointer.
#define MBU_CUDA_KERNEL(name, file, architectures, params, threads, shared, pixels, channels) \
  extern "C" __attribute__((weak)) void name(const params);
#include "cuda/kernels.inc"
#undef MBU_CUDA_KERNEL

namespace emu {

const Kernel* find_kernel(const std::string& name) {
  static const Kernel kernels[] = {
#define MBU_CUDA_KERNEL(name, file, architectures, params, threads, shared, pixels, channels) \
  {#name,   name != nullptr, [](const void* given) { name(*static_cast<const params*>(given)); },                                       \
   threads, shared,          pixels,                                                          \
   channels},
#include "cuda/kernels.inc"
#undef MBU_CUDA_KERNEL
  };
  for (const Kernel& kernel : kernels)
    if (kernel.linked && name == kernel.name) return &kernel;
  return nullptr;
}

}  // namespace emu
