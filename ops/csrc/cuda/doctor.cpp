// What the library carries and where it runs, read by mbu_ops/cuda.py through ctypes.
#include <algorithm>
#include <cstring>
#include <exception>

#include "cuda/launch.h"
#include "cuda/nvrtc.h"
#include "cuda/search.h"

#define MBU_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

void copy(const std::string& text, char* to, int size) {
  const size_t count = std::min(text.size(), static_cast<size_t>(size) - 1);
  std::memcpy(to, text.data(), count);
  to[count] = 0;
}

}  // namespace

MBU_EXPORT int mbu_cuda_image_count() {
  return mbu::cuda::kImageCount;
}
MBU_EXPORT const char* mbu_cuda_image_stem(int i) {
  return mbu::cuda::kImages[i].stem;
}
MBU_EXPORT const void* mbu_cuda_image(int i, char* target, int size, long long* bytes) {
  const mbu::cuda::Image& image = mbu::cuda::kImages[i];
  copy(name_of(mbu::cuda::Target{image.arch, image.variant, image.ptx}), target, size);
  *bytes = image.end - image.begin;
  return image.begin;
}

MBU_EXPORT int mbu_cuda_kernel_count() {
  return mbu::cuda::kKernelCount;
}
MBU_EXPORT const char* mbu_cuda_kernel_name(int i) {
  return mbu::cuda::kKernels[i].name;
}
MBU_EXPORT const char* mbu_cuda_kernel_stem(int i) {
  return mbu::cuda::kKernels[i].stem;
}
MBU_EXPORT const char* mbu_cuda_kernel_targets(int i) {
  return mbu::cuda::kKernels[i].targets;
}
MBU_EXPORT int mbu_cuda_kernel_shared_bytes(int i) {
  return mbu::cuda::kKernels[i].shared_bytes;
}

// The driver's version (13000 for CUDA 13.0) and number of devices; or 0 with the reason in `message`.
MBU_EXPORT int mbu_cuda_driver(int* devices, char* message, int size) {
  std::string why;
  const mbu::cuda::Driver* driver = mbu::cuda::driver(why);
  copy(why, message, size);
  *devices = driver ? driver->devices : 0;
  return driver ? driver->version : 0;
}

// The compute capability of a device (86 for 8.6) with its name in `text`; or 0 with the reason there.
MBU_EXPORT int mbu_cuda_device(int device, int* multiprocessors, int* shared_bytes, char* text, int size) {
  const mbu::cuda::DeviceInfo& info = mbu::cuda::device_info(device);
  copy(info.present ? info.name : info.why, text, size);
  *multiprocessors = info.multiprocessors;
  *shared_bytes = info.shared_bytes;
  return info.present ? info.capability : 0;
}

// Whether kernel i may be launched on a device; its route or the reason in `text`.
MBU_EXPORT int mbu_cuda_route(int device, int i, char* text, int size) {
  const mbu::cuda::Route& route = mbu::cuda::route(device, static_cast<mbu::cuda::Kernel>(i));
  copy(route.text, text, size);
  return route.function != nullptr;
}

// The target of kernel i that serves a capability, in `text`; 0 where none does. Asks no driver.
MBU_EXPORT int mbu_cuda_serving_target(int i, int capability, char* text, int size) {
  mbu::cuda::Target target;
  const bool found = serving_target(mbu::cuda::kKernels[i], capability, target);
  copy(found ? name_of(target) : "", text, size);
  return found;
}

MBU_EXPORT void mbu_cuda_cache_folder(char* text, int size) {
  copy(mbu::cuda::cache_folder(), text, size);
}

// What the timed search measured for a device (cuda/search.h), as far as it fits.
MBU_EXPORT void mbu_cuda_measured(int device, char* text, int size) {
  copy(mbu::cuda::measured(device), text, size);
}

// The kernel that this thread started last, empty before the first.
MBU_EXPORT const char* mbu_cuda_last_kernel() {
  const mbu::cuda::KernelInfo* last = mbu::cuda::last_launched();
  return last ? last->name : "";
}

// Microseconds of a peak kernel (peak/peak.h) of `blocks` blocks and `rounds` rounds on a stream; `output` is
// memory of the device, [blocks, kPeakThreads]. 0 with the reason in `text` where it cannot be timed.
MBU_EXPORT double mbu_cuda_peak(int device, int kernel, int blocks, int rounds, void* output, void* stream,
                                char* text, int size) {
  const mbu::cuda::PeakParams params{rounds, static_cast<int32_t*>(output)};
  const mbu::cuda::Grid grid{static_cast<uint32_t>(blocks), 1, 1};
  try {
    const std::vector<double> times =
        mbu::cuda::time_launches(device, {{static_cast<mbu::cuda::Kernel>(kernel), grid, &params}}, stream);
    copy(times.empty() ? "a CUDA graph is being captured" : "", text, size);
    return times.empty() ? 0 : times[0];
  } catch (const std::exception& error) {
    copy(error.what(), text, size);
    return 0;
  }
}
