#include <arm_neon.h>

namespace mbu {
typedef float32x4_t Lanes;
static inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return vfmaq_f32(c, a, b);
}
}  // namespace mbu

#define MBU_ISA neon
#include "cpu/stream/stream_rows.inc"
