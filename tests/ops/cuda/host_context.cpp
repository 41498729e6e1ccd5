// torch's view of a GPU for tests: host memory is its memory, so that CPU tensors go through the CUDA operations.
#include "torch/context.h"

namespace mbu {

torch::stable::Device gpu() {
  return torch::stable::Device(torch::headeronly::DeviceType::CPU);
}
bool on_gpu(const Tensor& tensor) {
  return tensor.is_cpu();
}
int device_of(const Tensor&) {
  return 0;
}
int current_device() {
  return 0;
}
std::shared_ptr<void> make_current(int) {
  return nullptr;
}
cuda::Stream current_stream(int) {
  return reinterpret_cast<cuda::Stream>(0x5150);
}

}  // namespace mbu
