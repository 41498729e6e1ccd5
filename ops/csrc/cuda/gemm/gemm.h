// A masked binary matrix product on a main loop of CUTLASS: rows are activations, columns are output
// channels.
//
// csrc/cuda/generate.py writes the files that include this one, each with a threadblock-level product `Mma`
// that cutlass_library describes. CUTLASS multiplies one plane; a masked weight has two, so its loop runs
// twice over the same activations into the same accumulators:
//
//   xor:  S = popc(a ^ neg) + popc(a ^ ~pos)                                  dot = S - K
//   and:  S = popc(a & pos) - popc(a & neg), accumulators negated in between  dot = 2 S - sum of weights
//
// The second form is not that of conv2d/multiply.h, where activations are inverted in registers: CUTLASS's
// loop hands none out. With a in {0, 1}, dot = sum (2a - 1) w = 2 sum a w - sum w.
#pragma once
#include "cuda/arithmetic.h"
#include "cutlass/gemm/kernel/default_gemm_universal.h"

namespace mbu::cuda {

template <class Mma, bool kXor>
struct Gemm {
  using Shape = typename Mma::Shape;
  using Warp = typename Mma::Operator::Shape;
  using Instruction = typename Mma::Operator::InstructionShape;
  static constexpr int kWarpsM = Shape::kM / Warp::kM, kWarps = kWarpsM * (Shape::kN / Warp::kN);
  static constexpr int kThreads = kWarps * kWarpLanes;
  static constexpr int kSharedBytes = sizeof(typename Mma::SharedStorage);
  // A lane's accumulators: per instruction, rows lane / 4 and, where it has 16, 8 further on; two
  // neighbouring columns of each. Instructions lie down the columns first.
  static constexpr int kRowParts = Warp::kM / Instruction::kM, kColumnParts = Warp::kN / 8;
  static constexpr int kBitsOfWord = 32;
  static constexpr int kHalves = Instruction::kM / 8, kWords = Warp::kN / kBitsOfWord;
  using Sums = typename Mma::FragmentC;
  static_assert(Instruction::kN == 8 && Warp::kN % kBitsOfWord == 0, "a warp's columns must be whole words");
  static_assert(Sums::kElements == kRowParts * kColumnParts * kHalves * 2);

  static MBU_DEVICE int own_row(int part, int half) {
    return part * Instruction::kM + half * 8 + thread_index() % kWarpLanes / 4;
  }
  static MBU_DEVICE int own_column(int part) { return part * 8 + thread_index() % 4 * 2; }
  static MBU_DEVICE int index(int row_part, int column_part, int half, int e) {
    return ((column_part * kRowParts + row_part) * kHalves + half) * 2 + e;
  }

  static MBU_DEVICE void run(const GemmParams& p) {
    extern __shared__ __align__(128) unsigned char mbu_shared[];
    auto& shared = *reinterpret_cast<typename Mma::SharedStorage*>(mbu_shared);
    const int thread = thread_index(), lane = thread % kWarpLanes;
    const int warp = __shfl_sync(0xffffffffu, thread / kWarpLanes, 0);
    const int first_row = block_x() * Shape::kM, first_column = block_y() * Shape::kN;
    const int k = p.words * kBitsOfWord, steps = (k + Shape::kK - 1) / Shape::kK;
    using A = typename Mma::IteratorA;
    using B = typename Mma::IteratorB;
    using Bit = typename A::Element;
    const typename A::Params input_params(typename A::Layout(p.stride * kBitsOfWord));
    const typename B::Params weight_params(typename B::Layout(p.weight_row * kBitsOfWord));
    auto* input = reinterpret_cast<Bit*>(const_cast<Word*>(p.input));
    auto* weight = reinterpret_cast<Bit*>(const_cast<Word*>(p.weight));
    Sums sums;
    sums.clear();
#pragma unroll 1
    for (int plane = 0; plane < p.weight_planes; ++plane) {
      // The planes lie as (neg, ~pos) for xor and as (pos, neg) for and, of which the subtracted one comes
      // first.
      const int64_t from = int64_t{kXor ? plane : 1 - plane} * p.weight_plane;
      auto* here = reinterpret_cast<Bit*>(reinterpret_cast<Word*>(weight) + from);
      A rows(input_params, input, {p.rows, k}, thread, {first_row, 0});
      B columns(weight_params, here, {k, p.out_channels}, thread, {0, first_column});
      if (plane == 1) {
        barrier();  // the first plane's last stage has been read
        if constexpr (!kXor) {
#pragma unroll
          for (int i = 0; i < Sums::kElements; ++i) sums[i] = -sums[i];
        }
      }
      // A loop leaves its stages where its last step was, so each plane has a fresh one.
      Mma(shared, thread, warp, lane)(steps, sums, rows, columns, sums);
    }
    finish(p, first_row + warp % kWarpsM * Warp::kM, first_column + warp / kWarpsM * Warp::kN, sums);
  }

  static MBU_DEVICE void finish(const GemmParams& p, int32_t row, int32_t column, Sums& sums) {
    const int32_t scale = kXor && p.weight_planes == 2 ? 1 : 2;
#pragma unroll
    for (int j = 0; j < kColumnParts; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int32_t own = column + own_column(j) + e;
        const int32_t base = kXor ? -p.words * kBitsOfWord : own < p.out_channels ? -p.weight_sum[own] : 0;
#pragma unroll
        for (int i = 0; i < kRowParts; ++i)
#pragma unroll
          for (int half = 0; half < kHalves; ++half) {
            auto& sum = sums[index(i, j, half, e)];
            sum = scale * sum + base;
          }
      }
    if (p.bits)
      to_bits(p, row, column, sums);
    else
      to_sums(p, row, column, sums);
  }

  // bit = (dot >= threshold) ^ flip. A quad of lanes has the 32 columns of a word.
  static MBU_DEVICE void to_bits(const GemmParams& p, int32_t row, int32_t column, const Sums& sums) {
    for (int32_t plane = 0; plane < p.planes; ++plane)
#pragma unroll
      for (int w = 0; w < kWords; ++w) {
        const int32_t word = column / kBitsOfWord + w;
        if (word >= p.out_words) break;
        const int32_t* threshold = p.threshold + int64_t{plane} * p.out_channels;
        int32_t limit[4][2];
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int32_t own = column + own_column(w * 4 + j) + e;
            // No dot product reaches it, so the bits above the last channel stay 0.
            limit[j][e] = own < p.out_channels ? threshold[own] : 0x7fffffff;
          }
        const Word flip = p.flip[plane * p.out_words + word] & valid_bits(word, p.out_channels);
#pragma unroll
        for (int i = 0; i < kRowParts; ++i)
#pragma unroll
          for (int half = 0; half < kHalves; ++half) {
            Word bits = 0;
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
              for (int e = 0; e < 2; ++e)
                bits |= static_cast<Word>(sums[index(i, w * 4 + j, half, e)] >= limit[j][e])
                        << (own_column(j) + e);
            bits |= shuffle_xor(bits, 1);
            bits |= shuffle_xor(bits, 2);
            const int32_t at = row + own_row(i, half);
            if (thread_index() % 4 == 0 && at < p.rows)
              p.bits[(int64_t{at} * p.planes + plane) * p.out_words + word] = bits ^ flip;
          }
      }
  }

  static MBU_DEVICE void to_sums(const GemmParams& p, int32_t row, int32_t column, const Sums& sums) {
#pragma unroll
    for (int i = 0; i < kRowParts; ++i)
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const int32_t at = row + own_row(i, half);
        if (at >= p.rows) continue;
        float* to = p.sums + int64_t{at} * p.out_channels;
#pragma unroll
        for (int j = 0; j < kColumnParts; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int32_t own = column + own_column(j) + e;
            if (own < p.out_channels) to[own] = static_cast<float>(sums[index(i, j, half, e)]);
          }
      }
  }
};

}  // namespace mbu::cuda

// One kernel. Threads and shared memory stand in cuda/kernels.inc and are checked here.
#define MBU_GEMM(name, mma, is_xor, thread_count, shared_bytes)                                         \
  using name##_gemm = mbu::cuda::Gemm<mma, is_xor>;                                                     \
  static_assert(name##_gemm::kThreads == (thread_count), #name ": kernels.inc gives other threads");    \
  static_assert(name##_gemm::kSharedBytes == (shared_bytes), #name ": kernels.inc gives another size"); \
  MBU_KERNEL void __launch_bounds__(thread_count)                                                       \
      name(const __grid_constant__ mbu::cuda::GemmParams params) {                                      \
    name##_gemm::run(params);                                                                           \
  }
