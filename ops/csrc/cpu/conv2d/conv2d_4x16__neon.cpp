// conv2d for every 64-bit Arm processor: `eor` and `and` form the mismatches, `cnt` and `add` count them. Per
// 1024 products, 32 vector operations and 2 broadcasts. The tile is explained in neon_tile.h.
#include "cpu/conv2d/neon_tile.h"

namespace mbu {
namespace {

struct Mismatches {
  static constexpr bool kMatches = false;

  // In assembly for its order alone: scheduling the same intrinsics, GCC 12 overlaps the pixels until it
  // keeps three counters in memory. Four chains side by side also suit processors that issue in order.
  static MBU_INLINE void count(uint32x4_t a, const uint32x4_t (&sign)[4], const uint32x4_t (&mask)[4],
                               uint8x16_t (&bytes)[4]) {
    uint32x4_t x, y, z;
    uint8x16_t b0 = bytes[0], b1 = bytes[1], b2 = bytes[2], b3 = bytes[3];
    __asm__ volatile(
        "eor %[x].16b, %[a].16b, %[s0].16b\n\t"
        "eor %[y].16b, %[a].16b, %[s1].16b\n\t"
        "eor %[z].16b, %[a].16b, %[s2].16b\n\t"
        "eor %[a].16b, %[a].16b, %[s3].16b\n\t"
        "and %[x].16b, %[x].16b, %[m0].16b\n\t"
        "and %[y].16b, %[y].16b, %[m1].16b\n\t"
        "and %[z].16b, %[z].16b, %[m2].16b\n\t"
        "and %[a].16b, %[a].16b, %[m3].16b\n\t"
        "cnt %[x].16b, %[x].16b\n\t"
        "cnt %[y].16b, %[y].16b\n\t"
        "cnt %[z].16b, %[z].16b\n\t"
        "cnt %[a].16b, %[a].16b\n\t"
        "add %[b0].16b, %[b0].16b, %[x].16b\n\t"
        "add %[b1].16b, %[b1].16b, %[y].16b\n\t"
        "add %[b2].16b, %[b2].16b, %[z].16b\n\t"
        "add %[b3].16b, %[b3].16b, %[a].16b"
        : [a] "+&w"(a), [x] "=&w"(x), [y] "=&w"(y), [z] "=&w"(z), [b0] "+w"(b0), [b1] "+w"(b1), [b2] "+w"(b2),
          [b3] "+w"(b3)
        : [s0] "w"(sign[0]), [s1] "w"(sign[1]), [s2] "w"(sign[2]), [s3] "w"(sign[3]), [m0] "w"(mask[0]),
          [m1] "w"(mask[1]), [m2] "w"(mask[2]), [m3] "w"(mask[3]));
    bytes[0] = b0;
    bytes[1] = b1;
    bytes[2] = b2;
    bytes[3] = b3;
  }
};

}  // namespace

void conv2d_4x16__neon(const Conv2dTile& t) {
  conv2d_neon<Mismatches>(t);
}

}  // namespace mbu
