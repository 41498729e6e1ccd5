#include "cuda/peak/peak.h"

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 800)
#error "signed bytes in m16n8k32 and cp.async need sm_80"
#endif

MBU_PEAK(peak__sm80_int8, S8Sm80, 0x01010101u, 0x01010101u)
