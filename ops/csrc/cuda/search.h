// The timed search (MBU_CUDA_SEARCH=1): of the kernels that may run a layer, the one that is fastest on the
// user's own card. What was measured is kept on disk, beside the code that NVRTC compiled.
#pragma once
#include <string>
#include <vector>

#include "cuda/launch.h"

namespace mbu::cuda {

bool searching();

// The index of the launch to take for `layer`, a text that says everything its time depends on. All of them
// write the same result. `predicted` is the answer while a CUDA graph is captured, where nothing can be
// timed.
size_t search(int device, const std::string& layer, const std::vector<Launch>& launches, size_t predicted,
              Stream stream);

// What was measured for a device, with this driver and this library: for each layer its text, the kernel that
// the table predicted, and a line "kernel microseconds" for each one; layers are separated by an empty line.
std::string measured(int device);

}  // namespace mbu::cuda
