// torch's view of a GPU for tests: host memory is its memory, so that CPU tensors go through the CUDA
// operations.
#include "torch/context.h"

static int device = 0;
extern "C" __attribute__((visibility("default"))) void host_set_device(int index) {
  device = index;
}

namespace mbu {

torch::stable::Device gpu() {
  return torch::stable::Device(torch::headeronly::DeviceType::CPU);
}
bool on_gpu(const Tensor& tensor) {
  return tensor.is_cpu();
}
int device_of(const Tensor&) {
  return device;
}
int current_device() {
  return device;
}
std::shared_ptr<void> make_current(int) {
  return nullptr;
}
cuda::Stream current_stream(int) {
  return reinterpret_cast<cuda::Stream>(0x5150);
}

}  // namespace mbu
