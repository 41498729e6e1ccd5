#include "cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>

namespace mbu::cuda {
namespace {

struct Opened {
  Driver driver{};
  std::string why;  // empty: usable
};

Opened open_driver() {
  Opened opened;
  const char* wanted = std::getenv("MBU_CUDA_DRIVER");
  const char* name = wanted && *wanted ? wanted : "libcuda.so.1";
  void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    opened.why = std::string("the NVIDIA driver could not be opened (") + dlerror() + "); install it";
    return opened;
  }
  Driver& d = opened.driver;
#define MBU_CUDA_ENTRY(entry, symbol, arguments)                                      \
  d.entry = reinterpret_cast<decltype(d.entry)>(dlsym(library, #symbol));             \
  if (!d.entry) {                                                                     \
    opened.why = std::string(name) + " has no " #symbol "; update the NVIDIA driver"; \
    return opened;                                                                    \
  }
  MBU_CUDA_ENTRIES(MBU_CUDA_ENTRY)
#undef MBU_CUDA_ENTRY
  if (Result error = d.init(0)) {
    opened.why = error_text(d, "cuInit", error);
  } else if (Result failed = d.driver_version(&d.version)) {
    opened.why = error_text(d, "cuDriverGetVersion", failed);
  } else if (Result uncounted = d.device_count(&d.devices)) {
    opened.why = error_text(d, "cuDeviceGetCount", uncounted);
  }
  return opened;
}

}  // namespace

std::string error_text(const Driver& driver, const char* call, Result error) {
  const char *name = nullptr, *meaning = nullptr;
  driver.error_name(error, &name);
  driver.error_string(error, &meaning);
  return std::string(call) + ": " + (name ? name : "error " + std::to_string(error)) + " (" +
         (meaning ? meaning : "no description") + ")";
}

const Driver* driver(std::string& why) {
  static const Opened opened = open_driver();
  why = opened.why;
  return opened.why.empty() ? &opened.driver : nullptr;
}

}  // namespace mbu::cuda
