// The CUDA keys: registered so that a tensor on a GPU meets a sentence and not a missing-kernel error.
#include "torch/check.h"
#include "torch/ops.h"

namespace mbu {
namespace {

#define MBU_OP(result, name, arguments)                                            \
  result name##_cuda arguments {                                                   \
    fail("mbu::" #name                                                             \
         " has no CUDA kernels in this version; move the packed model to the CPU " \
         "(model.cpu())");                                                         \
  }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
MBU_OPS(MBU_OP)
#pragma GCC diagnostic pop
#undef MBU_OP

}  // namespace
}  // namespace mbu

STABLE_TORCH_LIBRARY_IMPL(mbu, CUDA, m) {
#define MBU_OP(result, name, arguments) m.impl(#name, TORCH_BOX(&mbu::name##_cuda));
  MBU_OPS(MBU_OP)
#undef MBU_OP
}
