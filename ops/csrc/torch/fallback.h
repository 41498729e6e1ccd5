// Where no kernel of the library runs a call, mbu_ops/fallback.py does it with torch's own operations.
#pragma once
#include <dlfcn.h>

#include <array>
#include <string>

#include "torch/check.h"
#include "torch/ops.h"

namespace mbu {

// Thrown where a layer is right but no kernel takes it.
struct NoKernel {
  std::string why;
};

template <class Result>
Result take(StableIValue* stack) {
  return torch::stable::detail::to<Result>(stack[0]);
}
template <>
inline FloatAndBits take<FloatAndBits>(StableIValue* stack) {
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// What torch's last exception said, where this torch can tell.
inline std::string last_exception() {
  using What = const char* (*)();
  static const What what =
      reinterpret_cast<What>(dlsym(RTLD_DEFAULT, "torch_exception_get_what_without_backtrace"));
  return what && what() ? std::string(": ") + what() : "";
}

// Why the last call of this thread fell back, for whoever runs it (mbu_fallback_reason).
inline thread_local std::string fallback_reason;

// Calls mbu_fallback::<name> with the arguments of mbu::<name>.
template <class Result, class... Arguments>
Result fall_back(const char* name, const std::string& why, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments) + 1> stack{torch::stable::detail::from(arguments)...};
  const std::string op = std::string("mbu_fallback::") + name;
  fallback_reason = why;
  const AOTITorchError failed = torch_call_dispatcher(op.c_str(), "", stack.data(), TORCH_ABI_VERSION);
  MBU_CHECK(!failed, name, ": no CUDA kernel of this library runs the call (", why,
            "), and the float fallback of mbu_ops failed or is not there (import mbu_ops in this process)",
            last_exception());
  return take<Result>(stack.data());
}

}  // namespace mbu
