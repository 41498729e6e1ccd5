#include "cuda/params.h"
extern "C" __global__ void unpack__sm75(__grid_constant__ const mbu::cuda::UnpackParams p) {
  const long long i = blockIdx.x * 256ll + threadIdx.x;
  if (i < p.count) p.output[i] = (p.input[i / 32] >> (i % 32) & 1) ? 1.0f : -1.0f;
}
