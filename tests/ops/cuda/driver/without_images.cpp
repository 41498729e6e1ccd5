// The driver of this machine, but for the library's images (fat binaries), which it refuses: what NVRTC
// compiled (ELF) remains.
#include <dlfcn.h>

#include <cstdint>
#include <cstring>

extern "C" int cuModuleLoadDataEx(void** module, const void* image, unsigned options, int* names,
                                  void** values) {
  constexpr uint32_t kFatBinary = 0xBA55ED50;
  constexpr int kNoBinaryForGpu = 209;
  uint32_t magic;
  std::memcpy(&magic, image, sizeof(magic));
  if (magic == kFatBinary) return kNoBinaryForGpu;
  static const auto load =
      reinterpret_cast<decltype(&cuModuleLoadDataEx)>(dlsym(RTLD_NEXT, "cuModuleLoadDataEx"));
  return load(module, image, options, names, values);
}
