// Whether a float result is too large to be found in a cache when it is read again. Stores past the caches
// then save reading what they overwrite.
#pragma once
#include <cstdint>

#include "mbu/params.h"

namespace mbu {

// Bytes of a result from which on such stores paid: not yet at 8 MB, much at 16.
constexpr int64_t kLargeOutput = 12 << 20;

inline bool leaves_caches(const Stream& s, int64_t pixels, int64_t channels) {
  constexpr int64_t kLine = 64;
  return pixels * channels * size_of(s.type) >= kLargeOutput && channels % kTileChannels == 0 &&
         kTileChannels * size_of(s.type) % kLine == 0 && reinterpret_cast<uintptr_t>(s.output) % kLine == 0;
}

}  // namespace mbu
