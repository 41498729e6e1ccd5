#include "cuda/conv2d/conv2d.h"

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ != 900)
#error "b1 and.popc is native on sm_90"
#endif

MBU_CONV2D_FILE(conv2d_64x64, sm90_and, AndPopcSm90, Tile64x64, 24576, 24576)
