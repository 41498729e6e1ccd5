#include "cuda/peak/peak.h"

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 800 || __CUDA_ARCH__ >= 900)
#error \
    "b1 xor.popc of m16n8k256 is native on sm_80 to sm_89; later architectures emulate it, at a loss or wrongly"
#endif

MBU_PEAK(peak__sm80_xor, XorSm80, ~0u, 0u)
