#include "cuda/peak/peak.h"

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ != 900)
#error "b1 and.popc is native on sm_90"
#endif

MBU_PEAK(peak__sm90_and, AndSm90, ~0u, ~0u)
