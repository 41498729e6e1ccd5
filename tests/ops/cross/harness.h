// What the cases share: seeded numbers, memory that ends at a forbidden page, packed activations, and the
// comparison of every kernel with an expected result.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <vector>

#include "cpu/kernels.h"

namespace cross {

using namespace mbu;

// The case that runs, for messages.
extern char current[200];
// How many threads the library believes to have.
extern int threads;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {  // splitmix64
    uint64_t x = state_ += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  int64_t any(std::initializer_list<int64_t> of) {
    return of.begin()[below(static_cast<int64_t>(of.size()))];
  }

 private:
  uint64_t state_;
};

template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t count) : count_(static_cast<size_t>(count)) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t inside = (count_ * sizeof(T) + page - 1) / page * page;
    bytes_ = inside + page;
    base_ =
        static_cast<char*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + inside, page, PROT_NONE)) std::abort();
    data_ = reinterpret_cast<T*>(base_ + inside) - count_;
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, bytes_); }

  T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  void fill_bytes(int value) { std::memset(data_, value, count_ * sizeof(T)); }
  bool equals(const std::vector<T>& other) const {
    if (other.size() != count_) return false;
    return count_ == 0 || !std::memcmp(data_, other.data(), count_ * sizeof(T));
  }

 private:
  size_t count_, bytes_;
  char* base_;
  T* data_;
};

// Packed activations: `words` of each pixel in a pixel of `words + gap`, the gap full of noise.
struct Bits {
  int64_t n, h, w, c, words, stride;
  Guarded<Word> data;

  Bits(Random& r, int64_t n, int64_t h, int64_t w, int64_t c, int64_t gap, bool all_ones = false)
      : n(n), h(h), w(w), c(c), words(words_of(c)), stride(words + gap), data(n * h * w * stride - gap) {
    for (int64_t i = 0; i < n * h * w * stride - gap; ++i) {
      const Word noise = all_ones ? ~Word{0} : static_cast<Word>(r.bits());
      data[i] = i % stride < words ? noise & valid_bits(i % stride, c) : noise;
    }
  }
  int value(int64_t in, int64_t y, int64_t x, int64_t k) {
    return (data[((in * h + y) * w + x) * stride + k / 32] >> (k % 32) & 1) ? 1 : -1;
  }
  PackedImage image() { return {data.data(), n, h, w, words, h * w * stride, w * stride, stride}; }
};

// Runs `operation` with every available kernel, after filling the result with noise.
void for_each_kernel(const std::function<void()>& clear, const std::function<void()>& operation,
                     const std::function<bool()>& right);

template <class T>
void check(Guarded<T>& out, const std::vector<T>& expected, const std::function<void()>& operation) {
  for_each_kernel([&] { out.fill_bytes(0xa5); }, operation, [&] { return out.equals(expected); });
}

// A weight in every layout that a kernel may read.
class Weights {
 public:
  Weights(const Word* planes, int64_t oc, Extent kernel, int64_t words) {
    const WordRanges ranges = find_word_ranges(planes, oc, kernel.h * kernel.w, words);
    for (WeightLayout layout : {WeightLayout::bits, WeightLayout::int8_rows}) {
      tiled_.push_back(
          std::make_unique<Guarded<int32_t>>(TiledWeight::size(layout, oc, kernel, ranges.count)));
      tile_weight(planes, oc, kernel, words, layout, ranges, tiled_.back()->data());
    }
  }

  void convolve(Conv2dParams p) const {
    p.weight = {tiled_[static_cast<size_t>(cpu_kernel().layout)]->data()};
    conv2d(p);
  }

 private:
  std::vector<std::unique_ptr<Guarded<int32_t>>> tiled_;
};

void check_convs(Random& r);
// The float residual stream behind the convolution of `p`, whose dot products are `sum`.
void check_stream(Random& r, Conv2dParams p, const Weights& weights, const std::vector<int32_t>& sum);
void check_stems(Random& r);
void check_packing(Random& r);
void check_max_pools(Random& r);
// Several threads that call at once.
void check_callers(Random& r);

}  // namespace cross
