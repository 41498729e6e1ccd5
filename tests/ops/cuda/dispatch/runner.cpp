// What a launch does on the fake driver: the emulator runs the kernel, in the order and with the delays that
// find missing barriers.
#include <cstdio>

#include "emulator.h"
#include "registry.h"

namespace {

std::string error;

}  // namespace

extern "C" int emulate_launch(const char* name, const unsigned* grid, unsigned threads, unsigned shared,
                              const void* params) {
  const emu::Kernel* kernel = emu::find_kernel(name);
  if (!kernel) {
    error = std::string("the emulator has no kernel ") + name;
    return 500;  // CUDA_ERROR_NOT_FOUND
  }
  // Tensors are the caller's memory, whose bounds nobody tells here: the tests of the kernels check them.
  emu::allow_global(reinterpret_cast<const void*>(1), uint64_t{1} << 62, true);
  error = emu::run({[&] { kernel->call(params); }, {grid[0], grid[1], grid[2]}, threads, shared},
                   {true, false, emu::loads_ahead(name)});
  return error.empty() ? 0 : 700;  // CUDA_ERROR_ILLEGAL_ADDRESS
}

extern "C" const char* emulation_error() {
  return error.c_str();
}
