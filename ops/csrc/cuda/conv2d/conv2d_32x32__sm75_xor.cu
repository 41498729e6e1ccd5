#include "cuda/conv2d/conv2d.h"

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ != 750)
#error "b1 xor.popc of m8n8k128 is meant for sm_75; sm_80 to sm_89 have m16n8k256, later ones emulate b1 xor"
#endif

MBU_CONV2D_FILE(conv2d_32x32, sm75_xor, XorPopcSm75, Tile32x32, 6144, 6144)
