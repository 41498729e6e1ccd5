// "Device" memory of a test: a copy that ends at a forbidden page and starts behind one.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "emulator.h"

namespace emu {

class Guarded {
 public:
  // Aligned to 16 bytes, as the vector accesses of the kernels need; so up to 15 bytes past the end are not
  // forbidden by the page, but are by check_global.
  Guarded(const void* from, uint64_t bytes, bool writable) : bytes_(bytes) {
    const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    const uint64_t aligned = (bytes + 15) / 16 * 16, inside = (aligned + page - 1) / page * page;
    mapped_ = inside + 2 * page;
    base_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || (inside && mprotect(base_ + page, inside, PROT_READ | PROT_WRITE)))
      std::abort();
    data_ = base_ + page + inside - aligned;
    if (from && bytes) std::memcpy(data_, from, bytes);
    allow_global(data_, bytes, writable);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, mapped_); }

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  void copy_to(void* to) const { std::memcpy(to, data_, bytes_); }

 private:
  uint64_t bytes_, mapped_;
  char *base_, *data_;
};

}  // namespace emu
