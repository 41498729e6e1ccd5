// Which layers winograd_4x4.h computes, and computes faster than a kernel that looks sums up. Compiled for
// every processor, as it is asked before a kernel is chosen.
#include "cpu/kernels.h"

namespace mbu {
namespace {

constexpr int64_t kSide = 4;  // of a block of outputs
// Images with fewer rows or columns may be cut where outputs miss taps (axis.h).
constexpr int64_t kLeastSide = 8;
// Fewer do not pay for making bytes of the weights.
constexpr int64_t kLeastBlocks = 16;
// Beyond, 32 bits would not hold 576 times a limit.
constexpr int64_t kMostWords = 1 << 11;

}  // namespace

bool suits_winograd(const Conv2dParams& p) {
  const auto is = [](Extent size, int64_t value) { return size.h == value && size.w == value; };
  if (p.transposed || !is(p.kernel, 3) || !is(p.stride, 1) || !is(p.dilation, 1)) return false;
  if (p.padding.h > 1 || p.padding.w > 1 || p.output.h < kLeastSide || p.output.w < kLeastSide) return false;
  if (p.weight.header().sparse || p.weight.header().tile_words > kMostWords) return false;
  const int64_t blocks = ((p.output.h + kSide - 1) / kSide) * ((p.output.w + kSide - 1) / kSide);
  return blocks >= kLeastBlocks && 4 * p.output.h * p.output.w >= 3 * blocks * kSide * kSide;
}

}  // namespace mbu
