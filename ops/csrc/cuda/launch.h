// Kernels on a card: each device gets its own copies, loaded together when the first tensor of that device
// arrives (tile_weight, as a rule), so that nothing is loaded while a CUDA graph is captured.
#pragma once
#include <string>
#include <vector>

#include "cuda/driver.h"
#include "cuda/plan.h"
#include "cuda/select.h"

namespace mbu::cuda {

// How a kernel reached a device.
struct Route {
  Function function = nullptr;  // null: it may not or could not be loaded, and `text` says why
  std::string text;             // "cubin sm_86", "PTX compute_80", "NVRTC sm_86", or the reason
};

struct DeviceInfo {
  bool present = false;  // the driver knows the device
  std::string why;       // where it does not
  std::string name;
  int capability = 0;  // 86 for 8.6
  int multiprocessors = 0;
  int shared_bytes = 0;  // that a block may ask for
};

// Both load the device's kernels on the first call and throw nothing.
const DeviceInfo& device_info(int device);
const Route& route(int device, Kernel kernel);

// Starts `kernel` with its one parameter struct on `stream` of `device`, whatever device is current.
// Throws std::runtime_error where the kernel has no route on that device or the driver reports an error.
void launch(int device, Kernel kernel, Grid grid, const void* params, Stream stream);

// The kernel that this thread started last; null before the first.
const KernelInfo* last_launched();

struct Launch {
  Kernel kernel;
  Grid grid;
  const void* params;
};

// Microseconds of each launch on an otherwise idle card, the least of several rounds in which they take
// turns; empty while `stream` is captured. Throws as launch() does.
std::vector<double> time_launches(int device, const std::vector<Launch>& launches, Stream stream);

}  // namespace mbu::cuda
