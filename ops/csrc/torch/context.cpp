#include "torch/context.h"

#include <dlfcn.h>

#include "torch/check.h"

namespace mbu {

torch::stable::Device gpu() {
  return torch::stable::Device(torch::headeronly::DeviceType::CUDA);
}

bool on_gpu(const Tensor& tensor) {
  return tensor.is_cuda();
}

int device_of(const Tensor& tensor) {
  return tensor.get_device_index();
}

int current_device() {
  return torch::stable::accelerator::getCurrentDeviceIndex();
}

std::shared_ptr<void> make_current(int device) {
  return std::make_shared<torch::stable::accelerator::DeviceGuard>(device);
}

cuda::Stream current_stream(int device) {
  // The function lives in the CUDA part of torch, which a CPU-only torch lacks and this library must not
  // name.
  using Get = AOTITorchError (*)(int32_t, void**);
  static const Get get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
    return library ? reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  void* stream = nullptr;
  MBU_CHECK(get && get(device, &stream) == 0, "torch did not name the current stream of CUDA device ", device,
            "; this library needs a CUDA build of torch >= 2.10 for tensors on a GPU");
  return stream;
}

}  // namespace mbu
