// torch's view of the GPU: which device a tensor is on, which one and which stream are current.
#pragma once
#include <memory>

#include "cuda/driver.h"
#include "torch/ops.h"

namespace mbu {

torch::stable::Device gpu();  // the current one
bool on_gpu(const Tensor& tensor);
int device_of(const Tensor& tensor);
int current_device();
// Makes a device current until the result is destroyed.
std::shared_ptr<void> make_current(int device);
// The stream that torch queues work on; under capture, the one that is captured.
cuda::Stream current_stream(int device);

}  // namespace mbu
