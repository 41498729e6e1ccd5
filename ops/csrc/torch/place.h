// What the shared checks ask about the device of a call; cpu.cpp and cuda.cpp each answer for theirs.
#pragma once
#include "torch/ops.h"

namespace mbu {
namespace {

// Whether the tensor is on the device of this call.
bool is_here(const Tensor& tensor);
// How an error names that device, and what brings a tensor there: {"the CPU", "cpu()"}.
struct PlaceNames {
  const char *device, *move;
};
PlaceNames here();

}  // namespace
}  // namespace mbu
