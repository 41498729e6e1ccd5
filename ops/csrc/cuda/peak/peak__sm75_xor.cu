#include "cuda/peak/peak.h"

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ != 750)
#error "b1 xor.popc of m8n8k128 is meant for sm_75; sm_80 to sm_89 have m16n8k256, later ones emulate b1 xor"
#endif

MBU_PEAK(peak__sm75_xor, XorSm75, ~0u, 0u)
