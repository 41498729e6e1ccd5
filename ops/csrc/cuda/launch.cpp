#include "cuda/launch.h"

#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "cuda/nvrtc.h"

namespace mbu::cuda {
namespace {

// Values of cuda.h.
constexpr int kMultiprocessorCount = 16, kCapabilityMajor = 75, kCapabilityMinor = 76, kSharedOptin = 97;
constexpr int kMaxDynamicShared = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kSharedWithoutAsking = 48 << 10;
constexpr int kCaptureRelaxed = 2;                // CU_STREAM_CAPTURE_MODE_RELAXED
constexpr int kErrorLog = 5, kErrorLogBytes = 6;  // CU_JIT_ERROR_LOG_BUFFER and its size

// Makes a context current for a block of code.
class ContextGuard {
 public:
  ContextGuard(const Driver& driver, Context context) : driver_(driver) {
    Context current = nullptr;
    if (driver.current_context(&current) == 0 && current == context) return;
    if (Result error = driver.push_context(context))
      throw std::runtime_error(error_text(driver, "cuCtxPushCurrent", error));
    pushed_ = true;
  }
  ContextGuard(const ContextGuard&) = delete;
  ContextGuard& operator=(const ContextGuard&) = delete;
  ~ContextGuard() {
    Context popped;
    if (pushed_) driver_.pop_context(&popped);
  }

 private:
  const Driver& driver_;
  bool pushed_ = false;
};

// Loading allocates, which a capture in the strict modes of this thread would forbid.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(const Driver& driver) : driver_(driver) { driver_.exchange_capture_mode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;
  ~RelaxedCapture() { driver_.exchange_capture_mode(&mode_); }

 private:
  const Driver& driver_;
  int mode_ = kCaptureRelaxed;
};

thread_local const KernelInfo* last = nullptr;

struct LoadedImage {
  Module module = nullptr;
  std::string text;  // the route, or why there is none
};

class Device {
 public:
  explicit Device(int ordinal) {
    try {
      open(ordinal);
    } catch (const std::exception& error) {
      info.present = false;
      info.why = error.what();
    }
    routes.resize(static_cast<size_t>(kKernelCount));
    for (int i = 0; i < kKernelCount; ++i) {
      Route& made = routes[static_cast<size_t>(i)];
      try {
        if (info.present) {
          made = load(kKernels[i]);
        } else {
          made.text = info.why;
        }
      } catch (const std::exception& error) {
        made = {nullptr, error.what()};
      }
    }
  }

  const Driver* driver = nullptr;
  Context context = nullptr;
  DeviceInfo info;
  std::vector<Route> routes;

 private:
  void check(const char* call, Result error) const {
    if (error) throw std::runtime_error(error_text(*driver, call, error));
  }

  void open(int ordinal) {
    std::string why;
    driver = mbu::cuda::driver(why);
    if (!driver) throw std::runtime_error(why);
    int device = 0;
    check("cuDeviceGet", driver->device_get(&device, ordinal));
    char name[128] = "";
    check("cuDeviceGetName", driver->device_name(name, sizeof(name), device));
    info.name = name;
    const auto attribute = [&](int which) {
      int value = 0;
      check("cuDeviceGetAttribute", driver->device_attribute(&value, which, device));
      return value;
    };
    info.capability = attribute(kCapabilityMajor) * 10 + attribute(kCapabilityMinor);
    info.multiprocessors = attribute(kMultiprocessorCount);
    info.shared_bytes = attribute(kSharedOptin);
    // torch's tensors live in the primary context too; it is kept for the life of the process.
    check("cuDevicePrimaryCtxRetain", driver->retain_context(&context, device));
    info.present = true;
  }

  Route load(const KernelInfo& kernel) {
    Target target;
    if (!serving_target(kernel, info.capability, target))
      return {nullptr,
              "not for compute capability " + capability_text() + "; this kernel is for " + kernel.targets};
    if (kernel.shared_bytes > info.shared_bytes)
      return {nullptr, "needs " + std::to_string(kernel.shared_bytes) +
                           " bytes of shared memory, and a block has " + std::to_string(info.shared_bytes)};
    const ContextGuard guard(*driver, context);
    const RelaxedCapture relaxed(*driver);
    const LoadedImage& image = load_image(kernel);
    if (!image.module) return {nullptr, image.text};
    Route made{nullptr, image.text};
    Function function = nullptr;
    check("cuModuleGetFunction", driver->get_function(&function, image.module, kernel.name));
    if (kernel.shared_bytes > kSharedWithoutAsking)
      check("cuFuncSetAttribute", driver->set_attribute(function, kMaxDynamicShared, kernel.shared_bytes));
    made.function = function;
    return made;
  }

  // The kernels of one file share its module, where they are for the same targets.
  const LoadedImage& load_image(const KernelInfo& kernel) {
    LoadedImage& loaded = images_[std::string(kernel.stem) + " " + kernel.targets];
    if (loaded.module || !loaded.text.empty()) return loaded;
    std::string reasons;
    for (const Image* image : images_for(kernel, info.capability)) {
      const std::string name = name_of(Target{image->arch, image->variant, image->ptx});
      const std::string form = (image->ptx ? "PTX " : "cubin ") + name;
      if (std::string why = load_code(image->begin, loaded.module); why.empty()) {
        loaded.text = form;
        return loaded;
      } else {
        reasons += form + ": " + why + "; ";
      }
    }
    const Compiled compiled = compile(kernel, info.capability, driver->version);
    if (compiled.code.empty()) {
      loaded.text = reasons + compiled.why;
    } else if (std::string why = load_code(compiled.code.data(), loaded.module); why.empty()) {
      loaded.text = "NVRTC " + compiled.target + (compiled.cached ? ", cached" : "");
    } else {
      loaded.text = reasons + "NVRTC " + compiled.target + ": " + why;
    }
    return loaded;
  }

  // Empty, or why the driver refused.
  std::string load_code(const void* code, Module& module) const {
    char log[1024] = "";
    int names[] = {kErrorLog, kErrorLogBytes};
    void* values[] = {log, reinterpret_cast<void*>(sizeof(log))};
    if (Result error = driver->load_module(&module, code, 2, names, values)) {
      module = nullptr;
      return error_text(*driver, "cuModuleLoadDataEx", error) + (*log ? std::string(" ") + log : "");
    }
    return "";
  }

  std::string capability_text() const {
    return std::to_string(info.capability / 10) + "." + std::to_string(info.capability % 10);
  }

  std::map<std::string, LoadedImage> images_;
};

const Device& device(int ordinal) {
  static std::mutex mutex;
  // Never destroyed: at the end of a process the driver may be gone first.
  static auto& devices = *new std::map<int, std::unique_ptr<const Device>>;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<const Device>& found = devices[ordinal];
  if (!found) found = std::make_unique<const Device>(ordinal);
  return *found;
}

}  // namespace

const DeviceInfo& device_info(int ordinal) {
  return device(ordinal).info;
}

const Route& route(int ordinal, Kernel kernel) {
  return device(ordinal).routes[static_cast<size_t>(kernel)];
}

void launch(int ordinal, Kernel kernel, Grid grid, const void* params, Stream stream) {
  const Device& d = device(ordinal);
  const KernelInfo& info = kKernels[static_cast<int>(kernel)];
  const Route& made = d.routes[static_cast<size_t>(kernel)];
  if (!made.function)
    throw std::runtime_error(std::string(info.name) + " cannot run on CUDA device " +
                             std::to_string(ordinal) + ": " + made.text);
  const ContextGuard guard(*d.driver, d.context);
  void* arguments[] = {const_cast<void*>(params)};
  if (Result error =
          d.driver->launch_kernel(made.function, grid.x, grid.y, grid.z, static_cast<unsigned>(info.threads),
                                  1, 1, static_cast<unsigned>(info.shared_bytes), stream, arguments, nullptr))
    throw std::runtime_error(std::string(info.name) + " on CUDA device " + std::to_string(ordinal) + ": " +
                             error_text(*d.driver, "cuLaunchKernel", error));
  last = &info;
}

const KernelInfo* last_launched() {
  return last;
}

std::vector<double> time_launches(int ordinal, const std::vector<Launch>& launches, Stream stream) {
  // Enough launches in a row that their queue hides what one costs the processor.
  constexpr int kRounds = 5, kInARow = 10;
  const Device& d = device(ordinal);
  const ContextGuard guard(*d.driver, d.context);
  const auto check = [&](const char* call, Result error) {
    if (error) throw std::runtime_error(error_text(*d.driver, call, error));
  };
  int status = 0;
  check("cuStreamIsCapturing", d.driver->is_capturing(stream, &status));
  if (status) return {};
  struct Events {
    const Driver& driver;
    Event from = nullptr, to = nullptr;
    ~Events() {
      if (from) driver.destroy_event(from);
      if (to) driver.destroy_event(to);
    }
  } events{*d.driver};
  check("cuEventCreate", d.driver->create_event(&events.from, 0));
  check("cuEventCreate", d.driver->create_event(&events.to, 0));
  std::vector<double> least(launches.size(), 0);
  for (int round = -1; round < kRounds; ++round)  // the first one warms up
    for (size_t i = 0; i < launches.size(); ++i) {
      const Launch& l = launches[i];
      check("cuEventRecord", d.driver->record_event(events.from, stream));
      for (int n = 0; n < (round < 0 ? 1 : kInARow); ++n) launch(ordinal, l.kernel, l.grid, l.params, stream);
      check("cuEventRecord", d.driver->record_event(events.to, stream));
      check("cuEventSynchronize", d.driver->await_event(events.to));
      float milliseconds = 0;
      check("cuEventElapsedTime", d.driver->elapsed(&milliseconds, events.from, events.to));
      const double time = 1e3 * milliseconds / kInARow;
      if (round == 0 || (round > 0 && time < least[i])) least[i] = time;
    }
  return least;
}

}  // namespace mbu::cuda
