#include "torch/outputs.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "torch/check.h"

namespace mbu {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

// Smaller ones glibc keeps by itself. The end of its heap it hands back, to ask for it page by page next
// time.
constexpr size_t kSmallest = 4 << 20;
constexpr size_t kPage = 2 << 20;  // a large page of x86 and Arm
// Results after which memory that none of them used goes back to the system: several runs of a large network.
constexpr uint64_t kKeptFor = 512;

struct Block {
  void* data;
  size_t bytes;
  uint64_t used;  // number of the result that took it last
};

// Memory between two uses. A lock that is taken means the ordinary way, never waiting: a process forked while
// another thread held it goes on.
class Blocks {
 public:
  void* take(size_t bytes, size_t& granted) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock) {
      ++results_;
      size_t best = free_.size();
      for (size_t i = 0; i < free_.size(); ++i)
        if (free_[i].bytes >= bytes && free_[i].bytes <= bytes + bytes / 2 &&
            (best == free_.size() || free_[i].bytes < free_[best].bytes))
          best = i;
      if (best < free_.size()) {
        const Block block = free_[best];
        free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(best));
        granted = block.bytes;
        return block.data;
      }
    }
    granted = (bytes + kPage - 1) / kPage * kPage;
    void* data = std::aligned_alloc(kPage, granted);
    MBU_CHECK(data, "not enough memory for a result of ", bytes, " bytes");
#if defined(__linux__)
    madvise(data, granted, MADV_HUGEPAGE);
#endif
    return data;
  }

  void give_back(void* data, size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return std::free(data);
    free_.push_back({data, bytes, results_});
    drop([&](const Block& block) { return block.used + kKeptFor < results_; });
  }

  void clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    drop([](const Block&) { return true; });
#if defined(__GLIBC__)
    malloc_trim(0);  // a block may lie in the heap, whose free pages stay with the process otherwise
#endif
  }

 private:
  template <class Condition>
  void drop(Condition condition) {
    std::erase_if(free_, [&](const Block& block) {
      const bool gone = condition(block);
      if (gone) std::free(block.data);
      return gone;
    });
  }

  std::mutex mutex_;
  std::vector<Block> free_;
  uint64_t results_ = 0;
};

// Never destroyed: tensors may outlive every static object.
Blocks& blocks() {
  static Blocks& all = *new Blocks;
  return all;
}

// A tensor with a deleter of its own needs torch 2.11; the library loads beside 2.10, so it asks.
using FromBlob = AOTITorchError (*)(void*, int64_t, const int64_t*, const int64_t*, int64_t, int32_t, int32_t,
                                    int32_t, AtenTensorHandle*, int32_t, const uint8_t*, int64_t,
                                    void (*)(void*, void*), void*);
FromBlob from_blob() {
  static const auto function = reinterpret_cast<FromBlob>(dlsym(RTLD_DEFAULT, "torch_from_blob"));
  return function;
}

void give_back(void* data, void* bytes) {
  blocks().give_back(data, reinterpret_cast<size_t>(bytes));
}

// Whether a result of `bytes` is worth a block.
bool wants_block(int64_t bytes) {
  return bytes >= static_cast<int64_t>(kSmallest) && from_blob() != nullptr;
}

Tensor in_block(std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides, int64_t bytes,
                int32_t type) {
  size_t granted = 0;
  void* data = blocks().take(static_cast<size_t>(bytes), granted);
  AtenTensorHandle tensor;
  STABLE_TORCH_ERROR_CODE_CHECK(from_blob()(data, static_cast<int64_t>(sizes.size()), sizes.begin(),
                                            strides.begin(), 0, type, aoti_torch_device_type_cpu(), -1,
                                            &tensor, aoti_torch_layout_strided(), nullptr, 0, give_back,
                                            reinterpret_cast<void*>(granted)));
  return Tensor(tensor);
}

int64_t product(const char* what, std::initializer_list<int64_t> sizes) {
  int64_t all = 1;
  for (int64_t size : sizes) all = checked_mul(all, size, what);
  return all;
}

}  // namespace

Tensor empty_int(std::initializer_list<int64_t> sizes) {
  const int64_t bytes = checked_mul(product("result", sizes), 4, "result");
  if (sizes.size() != 4 || !wants_block(bytes)) return torch::stable::empty(sizes, ScalarType::Int);
  const int64_t* s = sizes.begin();
  return in_block(sizes, {s[1] * s[2] * s[3], s[2] * s[3], s[3], 1}, bytes, aoti_torch_dtype_int32());
}

Tensor empty_nhwc(std::initializer_list<int64_t> sizes, ScalarType type) {
  const int64_t element = type == ScalarType::Float ? 4 : type == ScalarType::Char ? 1 : 2;
  const int64_t bytes = checked_mul(product("result", sizes), element, "result");
  if (!wants_block(bytes))
    return torch::stable::empty(sizes, type, std::nullopt, std::nullopt, std::nullopt,
                                MemoryFormat::ChannelsLast);
  const int64_t* s = sizes.begin();
  return in_block(sizes, {s[1] * s[2] * s[3], 1, s[3] * s[1], s[1]}, bytes,
                  element == 4   ? aoti_torch_dtype_float32()
                  : element == 2 ? aoti_torch_dtype_bfloat16()
                                 : aoti_torch_dtype_int8());
}

}  // namespace mbu

// Gives all memory between two uses back to the system. Read by mbu_ops/backends.py through ctypes.
extern "C" __attribute__((visibility("default"))) void mbu_release_memory() {
  mbu::blocks().clear();
}
