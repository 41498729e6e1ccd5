// A convolution whose input channels fill whole stages of K, on a main loop of CUTLASS: the implicit product
// of gemm/taps.h, run for both planes of a weight as in gemm/gemm.h, with the epilogues of conv2d/epilogue.h.
#pragma once
#include "cuda/conv2d/epilogue.h"
#include "cuda/gemm/taps.h"

namespace mbu::cuda {

template <class Matrix, bool kXor, class Epilogue>
struct WideConv2d {
  using Mma = typename OverTaps<Matrix>::type;
  using Shape = typename Mma::Shape;
  using Warp = typename Mma::Operator::Shape;
  using Instruction = typename Mma::Operator::InstructionShape;
  using T = Tile<Shape::kM / Warp::kM, Shape::kN / Warp::kN, Warp::kM>;
  using Sums = typename Mma::FragmentC;
  static constexpr int kRowParts = Warp::kM / Instruction::kM, kHalves = Instruction::kM / 8;
  static constexpr int kLoopBytes = sizeof(typename Mma::SharedStorage);
  static constexpr int kSharedBytes =
      kLoopBytes > Epilogue::template kBytes<T> ? kLoopBytes : Epilogue::template kBytes<T>;
  static_assert(Warp::kN == T::kWarpChannels && Instruction::kN == 8, "a warp's channels are one word");
  static_assert(Sums::kElements == T::kRowParts * T::kColumnParts * 4);

  static MBU_DEVICE void run(const Conv2dParams& p) {
    extern __shared__ __align__(128) unsigned char mbu_shared[];
    auto& shared = *reinterpret_cast<typename Mma::SharedStorage*>(mbu_shared);
    const int thread = thread_index(), lane = thread % kWarpLanes;
    const int warp = __shfl_sync(0xffffffffu, thread / kWarpLanes, 0);
    const int warp_m = warp % T::kWarpsM, warp_n = warp / T::kWarpsM;
    const Pass pass = pass_of(p, 0);
    const int32_t first_pixel = block_x() * Shape::kM, first_channel = block_y() * Shape::kN;
    const int32_t k = p.taps * p.words * 32;
    using B = typename Mma::IteratorB;
    using Bit = typename B::Element;
    const typename B::Params weight_params(typename B::Layout(p.weight_row * 32));
    Sums sums;
    sums.clear();
#pragma unroll 1
    for (int plane = 0; plane < (kXor ? p.weight_planes : 2); ++plane) {
      // As in gemm/gemm.h: with and, the subtracted plane comes first.
      const int64_t from = int64_t{kXor ? plane : 1 - plane} * p.padded_channels * p.weight_row;
      auto* weight = reinterpret_cast<Bit*>(const_cast<Word*>(p.weight + from));
      const typename Mma::IteratorA pixels(p, pass, first_pixel, thread);
      const B columns(weight_params, weight, {k, p.out_channels}, thread, {0, first_channel});
      if (plane == 1) {
        barrier();  // the first plane's last stage has been read
        if constexpr (!kXor) {
#pragma unroll
          for (int i = 0; i < Sums::kElements; ++i) sums[i] = -sums[i];
        }
      }
      Mma(shared, thread, warp, lane)(k / Shape::kK, sums, pixels, columns, sums);
    }
    Accumulators<T> accumulators;
#pragma unroll
    for (int i = 0; i < T::kRowParts; ++i)
#pragma unroll
      for (int j = 0; j < T::kColumnParts; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) accumulators[i][j][e] = sums[index(i, j, e / 2, e % 2)];
    if (!kXor && p.weight_planes == 2)
      count_as_inverted(p, first_channel + warp_n * T::kWarpChannels, accumulators);
    Epilogue::template run<T>(p, pass, first_pixel, first_channel, warp_m, warp_n, accumulators);
  }

  // Where CUTLASS keeps the sum of rows 16 i + 8 half and channels 8 j + e of a lane (gemm/gemm.h).
  static MBU_DEVICE int index(int i, int j, int half, int e) {
    const int part = kHalves == 2 ? i : 2 * i + half;
    return ((j * kRowParts + part) * kHalves + (kHalves == 2 ? half : 0)) * 2 + e;
  }

  // With zeros the epilogues expect popc(a & pos) + popc(~a & neg), as conv2d/multiply.h counts; here the
  // sums are popc(a & pos) - popc(a & neg). They differ by popc(neg) = (nnz - sum of weights) / 2.
  static MBU_DEVICE void count_as_inverted(const Conv2dParams& p, int32_t channel, Accumulators<T>& sums) {
    if (channel >= p.padded_channels) return;
#pragma unroll
    for (int j = 0; j < T::kColumnParts; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int32_t own = channel + own_channel(j) + e;
        int32_t negative = -p.base[int64_t{p.taps} * p.padded_channels + own];  // base = -nnz
        for (int32_t tap = 0; tap < p.taps; ++tap)
          negative -= p.weight_sum[int64_t{tap} * p.padded_channels + own];
#pragma unroll
        for (int i = 0; i < T::kRowParts; ++i) {
          sums[i][j][e] += negative / 2;
          sums[i][j][e + 2] += negative / 2;
        }
      }
  }
};

}  // namespace mbu::cuda

// One kernel. Threads and shared memory stand in cuda/kernels.inc and are checked here.
#define MBU_WIDE_CONV2D(name, mma, is_xor, epilogue, thread_count, shared_bytes)                        \
  using name##_conv = mbu::cuda::WideConv2d<mma, is_xor, mbu::cuda::epilogue>;                          \
  static_assert(name##_conv::T::kThreads == (thread_count), #name ": kernels.inc gives other threads"); \
  static_assert(name##_conv::kSharedBytes == (shared_bytes), #name ": kernels.inc gives another size"); \
  MBU_KERNEL void __launch_bounds__(thread_count)                                                       \
      name(const __grid_constant__ mbu::cuda::Conv2dParams params) {                                    \
    name##_conv::run(params);                                                                           \
  }
