#include "mbu/parallel.h"

#include <torch/csrc/stable/ops.h>

namespace mbu {

int num_threads() {
  return static_cast<int>(torch::stable::get_num_threads());
}

void parallel_range(int64_t count, int64_t grain, RangeFunction function, void* context) {
  STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, count, grain, function, context));
}

}  // namespace mbu
