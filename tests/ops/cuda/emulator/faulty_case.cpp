// Runs a kernel of faulty.cu, for Python. Shared memory holds 16 bytes for each of 128 threads.
#include <string>

#include "cuda/params.h"
#include "guarded.h"

using mbu::cuda::MaxPool2dParams;

extern "C" const char* emulate_faulty(void (*kernel)(MaxPool2dParams), const uint32_t* input,
                                      uint32_t* output, int64_t late_copies, int64_t warps_backwards) {
  static std::string error;
  constexpr uint32_t kThreads = 128;
  emu::forget_global();
  const emu::Guarded from(input, kThreads * 16, false), to(output, kThreads * 4, true);
  MaxPool2dParams p{};
  p.input = from.as<mbu::Word>();
  p.output = to.as<mbu::Word>();
  error = emu::run({[&] { kernel(p); }, {1, 1, 1}, kThreads, kThreads * 16},
                   {late_copies != 0, warps_backwards != 0});
  to.copy_to(output);
  return error.c_str();
}
