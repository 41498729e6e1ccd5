namespace mbu {
typedef float Lanes __attribute__((vector_size(16)));
static inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  for (int i = 0; i < 4; ++i) a[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return a;
}
}  // namespace mbu

#define MBU_ISA scalar
#include "cpu/stream/stream_rows.inc"
