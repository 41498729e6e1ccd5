// Where no kernel of the library runs a call, mbu_ops/fallback.py does it with torch's own operations.
#pragma once
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

// Calls mbu_fallback::<name> with the arguments of mbu::<name>.
template <class Result, class... Arguments>
Result fall_back(const char* name, const std::string& why, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments) + 1> stack{torch::stable::detail::from(arguments)...};
  const std::string op = std::string("mbu_fallback::") + name;
  const AOTITorchError failed = torch_call_dispatcher(op.c_str(), "", stack.data(), TORCH_ABI_VERSION);
  MBU_CHECK(!failed, name, ": no CUDA kernel of this library runs the call (", why,
            "), and the float fallback of mbu_ops failed or is not there (import mbu_ops in this process)");
  return take<Result>(stack.data());
}

}  // namespace mbu
