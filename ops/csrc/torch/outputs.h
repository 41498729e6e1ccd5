// Memory of results. Large results of earlier calls leave their memory to later ones: the system would take
// it back and clear it page by page every time.
#pragma once
#include <cstdint>
#include <initializer_list>

#include "torch/ops.h"

namespace mbu {

// int32, contiguous.
Tensor empty_int(std::initializer_list<int64_t> sizes);
// [N, C, H, W] of `type` in channels_last memory.
Tensor empty_nhwc(std::initializer_list<int64_t> sizes, torch::headeronly::ScalarType type);

}  // namespace mbu
