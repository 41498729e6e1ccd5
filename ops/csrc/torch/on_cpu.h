// The answers of the files that serve CPU tensors to place.h.
#pragma once
#include "torch/place.h"

namespace mbu {
namespace {

inline bool is_here(const Tensor& tensor) {
  return tensor.is_cpu();
}
inline PlaceNames here() {
  return {"the CPU", "cpu()"};
}

}  // namespace
}  // namespace mbu
