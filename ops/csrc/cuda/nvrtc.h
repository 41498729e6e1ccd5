// The second way to a kernel: NVRTC, which torch brings, compiles the source that the library carries. What
// it made is kept on disk (MBU_CACHE_DIR, else the user's cache folder).
#pragma once
#include <string>
#include <vector>

#include "cuda/select.h"

namespace mbu::cuda {

struct Compiled {
  std::string code;    // a cubin, empty where it failed
  std::string target;  // "sm_86"
  std::string why;     // where it failed
  bool cached = false;
};

// `kernel` for a card of `capability`, in the form of the target that serves it.
Compiled compile(const KernelInfo& kernel, int capability, int driver_version);

// Files in the cache folder: code, or what was measured, whole or not at all. See cache.cpp.
std::string cache_folder();
bool read_cached(const std::string& file, std::string& content);
bool write_cached(const std::string& file, const std::string& content);
std::vector<std::string> cached_files();  // in order of their names
// 32 hexadecimal digits that stand for a text.
std::string key_of(const std::string& text);

}  // namespace mbu::cuda
