// Which kernel runs a layer on a card.
#pragma once
#include <cstdint>

#include "cuda/launch.h"
#include "cuda/plan_gemm.h"
#include "cuda/weight.h"

namespace mbu::cuda {

// Kernels for one tensor-core instruction; all of a device's weights are laid out for one family.
struct Family {
  const char* name;  // "sm80_xor"
  DeviceLayout layout;
};

// The family of a device: of those whose kernels all have a route there, the first of choices.inc. Null where
// there is none, with the reason in `why`.
const Family* family_of(int device, const char** why);

// The kernel of `family` for `pixels` output pixels (of the largest pass) times `channels` outputs in
// `passes` passes; `vector` as in plan.h. The largest tile that keeps a card of so many multiprocessors busy.
Kernel choose_conv2d(const Family& family, int64_t pixels, int64_t channels, int64_t passes, bool stream,
                     int vector, int multiprocessors);

// The kernel of choices.inc for this product, or nothing: then the convolutions run it as a 1x1 layer.
// MBU_CUDA_GEMM=always|never in the environment overrides the table.
bool choose_gemm(int device, const Family& family, const Product& product, int multiprocessors,
                 Kernel& kernel);

}  // namespace mbu::cuda
