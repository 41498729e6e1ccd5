#include <immintrin.h>

namespace mbu {
typedef float Lanes __attribute__((vector_size(32)));
static inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return _mm256_fmadd_ps(a, b, c);
}
}  // namespace mbu

#define MBU_ISA avx2
#include "cpu/stream/stream_rows.inc"
