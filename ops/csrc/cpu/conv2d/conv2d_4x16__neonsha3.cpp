// conv2d with the SHA3 extension, whose `bcax` computes x ^ (y & ~z). As sign is a subset of mask,
//
//   mask & ~(a ^ sign) = sign ^ (mask & ~a)
//
// so one operation forms the products that match, where the plain kernel needs two for those that do not. Per
// 1024 products, 24 vector operations and 2 broadcasts. mismatches = nonzero products - matches.
#include "cpu/conv2d/neon_tile.h"

namespace mbu {
namespace {

struct Matches {
  static constexpr bool kMatches = true;

  // In assembly for its order, as in the plain kernel.
  static MBU_INLINE void count(uint32x4_t a, const uint32x4_t (&sign)[4], const uint32x4_t (&mask)[4],
                               uint8x16_t (&bytes)[4]) {
    uint32x4_t x, y, z;
    uint8x16_t b0 = bytes[0], b1 = bytes[1], b2 = bytes[2], b3 = bytes[3];
    __asm__ volatile(
        "bcax %[x].16b, %[s0].16b, %[m0].16b, %[a].16b\n\t"
        "bcax %[y].16b, %[s1].16b, %[m1].16b, %[a].16b\n\t"
        "bcax %[z].16b, %[s2].16b, %[m2].16b, %[a].16b\n\t"
        "bcax %[a].16b, %[s3].16b, %[m3].16b, %[a].16b\n\t"
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

void conv2d_4x16__neonsha3(const Conv2dTile& t) {
  conv2d_neon<Matches>(t);
}

}  // namespace mbu
