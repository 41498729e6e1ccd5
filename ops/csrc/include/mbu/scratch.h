// Memory that is kept between calls. Each thread has its own; it grows and is never given back before the
// thread ends, so that a steady stream of calls allocates nothing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace mbu {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  // Not inline: the end of a thread calls it by its address, and of all copies the linker would keep one,
  // maybe that of a file for newer processors.
  ~Scratch();

  // `count` elements of T, aligned to a cache line, contents undefined. Valid until the next call.
  template <class T>
  T* get(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    if (bytes > capacity_) {
      std::free(data_);
      capacity_ = 0;
      data_ = std::aligned_alloc(64, bytes);
      if (!data_) throw std::bad_alloc();
      capacity_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace mbu
