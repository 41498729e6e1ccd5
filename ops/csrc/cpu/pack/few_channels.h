// Pixels of fewer channels than a register has lanes, all of them side by side in memory: `kLanes` pixels are
// then as many full registers as there are channels. Lane l of register v is number v * kLanes + l of the
// block: channel `number % channels` of pixel `number / channels`.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <cstdint>

#include "mbu/types.h"

namespace mbu {
namespace {

template <int kLanes>
struct FewChannels {
  // What each lane of each register meets.
  alignas(64) float threshold[kLanes][kLanes];
  alignas(64) int32_t pixel[kLanes][kLanes];
  alignas(64) Word bit[kLanes][kLanes];

  // `of` has a threshold for each channel, or is null. channels < kLanes.
  FewChannels(int64_t channels, const float* of) {
    for (int64_t v = 0, channel = 0, p = 0; v < channels; ++v) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        threshold[v][lane] = of ? of[channel] : 0.0f;
        pixel[v][lane] = static_cast<int32_t>(p);
        bit[v][lane] = Word{1} << channel;
        if (++channel == channels) channel = 0, ++p;
      }
    }
  }
};

}  // namespace
}  // namespace mbu
