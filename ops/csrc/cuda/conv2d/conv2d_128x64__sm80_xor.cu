#include "cuda/conv2d/conv2d.h"

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 800 || __CUDA_ARCH__ >= 900)
#error \
    "b1 xor.popc of m16n8k256 is native on sm_80 to sm_89; later architectures emulate it, at a loss or wrongly"
#endif

MBU_CONV2D_FILE(conv2d_128x64, sm80_xor, XorPopcSm80, Tile128x64, 32768, 36864)
