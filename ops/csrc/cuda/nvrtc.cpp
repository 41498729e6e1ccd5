#include "cuda/nvrtc.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace mbu::cuda {
namespace {

using Program = void*;

// MBU_NVRTC_ENTRY(name here, symbol in the library, arguments)
#define MBU_NVRTC_ENTRIES(MBU_NVRTC_ENTRY)                                                                \
  MBU_NVRTC_ENTRY(version, nvrtcVersion, (int* major, int* minor))                                        \
  MBU_NVRTC_ENTRY(create, nvrtcCreateProgram,                                                             \
                  (Program * program, const char* source, const char* name, int headers,                  \
                   const char* const* texts, const char* const* names))                                   \
  MBU_NVRTC_ENTRY(destroy, nvrtcDestroyProgram, (Program * program))                                      \
  MBU_NVRTC_ENTRY(compile, nvrtcCompileProgram, (Program program, int count, const char* const* options)) \
  MBU_NVRTC_ENTRY(log_size, nvrtcGetProgramLogSize, (Program program, size_t* size))                      \
  MBU_NVRTC_ENTRY(log, nvrtcGetProgramLog, (Program program, char* log))                                  \
  MBU_NVRTC_ENTRY(code_size, nvrtcGetCUBINSize, (Program program, size_t* size))                          \
  MBU_NVRTC_ENTRY(code, nvrtcGetCUBIN, (Program program, char* code))

struct Nvrtc {
#define MBU_NVRTC_ENTRY(name, symbol, arguments) int(*name) arguments;
  MBU_NVRTC_ENTRIES(MBU_NVRTC_ENTRY)
#undef MBU_NVRTC_ENTRY
  std::string why;  // empty: usable
};

// NVRTC opens a second library by its bare name; the linker finds it where it is open already.
void open_builtins(const Nvrtc& n) {
  Dl_info self;
  int major = 0, minor = 0;
  if (!dladdr(reinterpret_cast<void*>(n.version), &self) || n.version(&major, &minor)) return;
  const std::string path = self.dli_fname;
  const std::string name = "libnvrtc-builtins.so." + std::to_string(major) + "." + std::to_string(minor);
  dlopen((path.substr(0, path.rfind('/') + 1) + name).c_str(), RTLD_NOW | RTLD_LOCAL);
}

// torch's CUDA build has loaded its NVRTC; where it has not, the linker may know one. MBU_NVRTC names a file.
const Nvrtc& nvrtc() {
  static const Nvrtc opened = [] {
    Nvrtc n{};
    const char* wanted = std::getenv("MBU_NVRTC");
    void* library = nullptr;
    if (wanted && *wanted) {
      library = dlopen(wanted, RTLD_NOW | RTLD_LOCAL);
    } else {
      for (const char* name : {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"})
        if (!library) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (!library) {
      n.why = "NVRTC was not found (it comes with the CUDA build of torch; MBU_NVRTC names another file)";
      return n;
    }
#define MBU_NVRTC_ENTRY(name, symbol, arguments)                         \
  n.name = reinterpret_cast<decltype(n.name)>(dlsym(library, #symbol));  \
  if (!n.name) {                                                         \
    n.why = "NVRTC has no " #symbol "; version 11.1 or later is needed"; \
    return n;                                                            \
  }
    MBU_NVRTC_ENTRIES(MBU_NVRTC_ENTRY)
#undef MBU_NVRTC_ENTRY
    open_builtins(n);
    return n;
  }();
  return opened;
}

const char* source_of(const char* stem) {
  const std::string name = std::string("cuda/") + stem + ".cu";
  for (int i = 0; i < kSourceCount; ++i)
    if (name == kSources[i].name) return kSources[i].text;
  return nullptr;
}

}  // namespace

Compiled compile(const KernelInfo& kernel, int capability, int driver_version) {
  Compiled result;
  Target target;
  if (!serving_target(kernel, capability, target)) {
    result.why = std::string("no target of ") + kernel.name + " serves this card";
    return result;
  }
  // PTX for an earlier capability stands for machine code of the card itself.
  result.target = name_of(target.ptx ? Target{capability, ' ', false} : target);
  const char* source = source_of(kernel.stem);
  const Nvrtc& n = nvrtc();
  if (!source || !n.why.empty()) {
    result.why = source ? n.why : std::string("the library does not carry the source of ") + kernel.stem;
    return result;
  }
  int major = 0, minor = 0;
  n.version(&major, &minor);
  std::vector<const char*> texts, names;
  std::string everything = std::string(source) + '\n' + kernel.stem + ' ' + result.target + ' ' +
                           std::to_string(major) + '.' + std::to_string(minor) + ' ' +
                           std::to_string(driver_version);
  for (int i = 0; i < kSourceCount; ++i) {
    texts.push_back(kSources[i].text);
    names.push_back(kSources[i].name);
    everything += kSources[i].text;
  }
  const std::string key = key_of(everything) + ".cubin";
  if (read_cached(key, result.code)) {
    result.cached = true;
    return result;
  }

  Program program = nullptr;
  const std::string file = std::string(kernel.stem) + ".cu", arch = "--gpu-architecture=" + result.target;
  const char* options[] = {arch.c_str(), "--std=c++17", "-default-device"};
  if (n.create(&program, source, file.c_str(), static_cast<int>(texts.size()), texts.data(), names.data())) {
    result.why = "nvrtcCreateProgram failed for " + file;
    return result;
  }
  size_t size = 0;
  if (n.compile(program, 3, options)) {
    if (n.log_size(program, &size) == 0 && size > 0) {
      result.why.resize(size);
      n.log(program, result.why.data());
      result.why.resize(std::strlen(result.why.c_str()));
    }
    result.why = "NVRTC " + std::to_string(major) + "." + std::to_string(minor) + " could not compile " +
                 file + " for " + result.target + ": " + result.why;
  } else if (n.code_size(program, &size) || size == 0) {
    result.why = "NVRTC made no machine code for " + result.target;
  } else {
    result.code.resize(size);
    if (n.code(program, result.code.data())) {
      result.code.clear();
      result.why = "nvrtcGetCUBIN failed";
    } else {
      write_cached(key, result.code);
    }
  }
  n.destroy(&program);
  return result;
}

}  // namespace mbu::cuda
