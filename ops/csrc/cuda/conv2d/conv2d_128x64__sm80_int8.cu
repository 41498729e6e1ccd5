#include "cuda/conv2d/conv2d.h"

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 800)
#error "signed bytes in m16n8k32 and cp.async need sm_80"
#endif

MBU_CONV2D_FILE(conv2d_128x64, sm80_int8, Bytes, Tile128x64, 40960, 40960)
