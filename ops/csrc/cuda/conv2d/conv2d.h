// Masked binary convolution, ordinary and transposed, as one implicit matrix product.
//
// A block computes kPixels output pixels times kChannels output channels of one pass; blockIdx.x counts tiles
// of pixels, y tiles of channels, z passes (the sub-pixel phases of a transposed convolution, all in one
// launch). Passes differ in size: blocks beyond the end of a pass leave at once.
#pragma once
#include "cuda/conv2d/epilogue.h"
#include "cuda/conv2d/pipeline.h"

namespace mbu::cuda {

constexpr int larger(int a, int b) {
  return a > b ? a : b;
}

template <class Form, class T, class Epilogue, int kVector>
struct Conv2d {
  using Loop = Pipeline<Form, T, kVector>;
  static constexpr int kSharedBytes = larger(Loop::kBytes, Epilogue::template kBytes<T>);

  static MBU_DEVICE void run(const Conv2dParams& p) {
    const Pass pass = pass_of(p, block_z());
    const int32_t first_pixel = block_x() * T::kPixels, first_channel = block_y() * T::kChannels;
    if (first_pixel >= pass.pixels) return;
    const int warp = thread_index() / kWarpLanes, warp_m = warp % T::kWarpsM, warp_n = warp / T::kWarpsM;
    Accumulators<T> sums = {};
    Loop::run(p, pass, first_pixel, first_channel, warp_m, warp_n, sums);
    Epilogue::template run<T>(p, pass, first_pixel, first_channel, warp_m, warp_n, sums);
  }
};

// Threads of a multiprocessor that registers must suffice for: as many as ptxas manages without spilling.
// Narrow reads keep the places of more pixels in registers.
constexpr int resident_threads(int vector) {
  return vector == 4 ? 384 : 256;
}

}  // namespace mbu::cuda

// One kernel. Shared memory is dynamic; its size stands in cuda/kernels.inc and is checked here.
#define MBU_CONV2D(name, form, tile, epilogue, vector, shared_bytes)                                    \
  static_assert(                                                                                        \
      mbu::cuda::Conv2d<mbu::cuda::form, mbu::cuda::tile, mbu::cuda::epilogue, vector>::kSharedBytes == \
          (shared_bytes),                                                                               \
      #name ": kernels.inc gives another size of shared memory");                                       \
  MBU_KERNEL void __launch_bounds__(mbu::cuda::tile::kThreads,                                          \
                                    mbu::cuda::resident_threads(vector) / mbu::cuda::tile::kThreads)    \
      name(const __grid_constant__ mbu::cuda::Conv2dParams params) {                                    \
    mbu::cuda::Conv2d<mbu::cuda::form, mbu::cuda::tile, mbu::cuda::epilogue, vector>::run(params);      \
  }

// The kernels of a file, for inputs whose pixels can be read 4, 2 or 1 words at a time.
#define MBU_CONV2D_FILE(stem, suffix, form, tile, bits_bytes, stream_bytes)     \
  MBU_CONV2D(stem##_bits_v4__##suffix, form, tile, ToBits, 4, bits_bytes)       \
  MBU_CONV2D(stem##_bits_v2__##suffix, form, tile, ToBits, 2, bits_bytes)       \
  MBU_CONV2D(stem##_bits_v1__##suffix, form, tile, ToBits, 1, bits_bytes)       \
  MBU_CONV2D(stem##_stream_v4__##suffix, form, tile, ToStream, 4, stream_bytes) \
  MBU_CONV2D(stem##_stream_v2__##suffix, form, tile, ToStream, 2, stream_bytes) \
  MBU_CONV2D(stem##_stream_v1__##suffix, form, tile, ToStream, 1, stream_bytes)
