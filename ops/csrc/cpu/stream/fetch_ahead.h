// Memory that the next rows will need, called into the second-level cache some lines at a time while the
// kernel multiplies: called for at once, it would be waited for.
//
// What kernels call is always inlined: a copy compiled with their instructions could be linked elsewhere.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/unroll.h"

namespace mbu {

class FetchAhead {
 public:
  void clear() {
    ranges_.clear();
    at_ = 0;
    lines_ = each_ = 0;
  }

  void add(const void* from, int64_t bytes) {
    const auto* begin = static_cast<const char*>(from);
    if (!ranges_.empty() && ranges_.back().end == begin)
      ranges_.back().end += bytes;
    else
      ranges_.push_back({begin, begin + bytes});
    lines_ += (bytes + kLine - 1) / kLine;
  }

  // Or null.
  const void* first() const { return ranges_.empty() ? nullptr : ranges_.front().next; }

  // `some` will be called so often.
  MBU_INLINE void spread(int64_t calls) { each_ = calls > 0 ? (lines_ + calls - 1) / calls : 0; }
  MBU_INLINE void some() { fetch(each_); }
  void all() { fetch(lines_); }

 private:
  static constexpr int64_t kLine = 64;
  struct Range {
    const char *next, *end;
  };

  MBU_INLINE void fetch(int64_t lines) {
    for (; lines > 0 && at_ < ranges_.size(); ++at_) {
      auto& [next, end] = ranges_[at_];
      for (; next < end && lines > 0; next += kLine, --lines) __builtin_prefetch(next, 0, 2);
      if (next < end) return;
    }
  }

  std::vector<Range> ranges_;
  size_t at_ = 0;
  int64_t lines_ = 0, each_ = 0;
};

}  // namespace mbu
