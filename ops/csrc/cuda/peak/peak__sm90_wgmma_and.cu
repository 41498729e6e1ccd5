#include "cuda/peak/peak_wgmma.h"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "wgmma is of sm_90a alone"
#endif

MBU_WGMMA_PEAK(peak__sm90_wgmma_and, WgmmaAnd, ~0u)
