// The products of one stage, 256 bits of K, on the tensor cores. Each form computes one accumulator per
// output from both planes of a masked binary weight (design: mbu/types.h; K counts every bit, tails
// included):
//
//   xor:   S = popc(a ^ neg) + popc(a ^ ~pos)    a bit adds 0, 1 or 2 for a product -1, 0 or +1: dot = S - K
//                                                without zeros neg is ~pos, and half of S suffices
//   and:   S = popc(a & pos) + popc(~a & neg)    counts the products that are +1:        dot = 2 S - nnz
//                                                without zeros S = 2 popc(a & pos) - popc(a), and
//                                                                                        dot = 2 S - sum w
//   bytes: S = sum of a * w with a in {0, 1}     sum (2a - 1) w:                         dot = 2 S - sum w
//
// so dot = scale * S + base with a base per tap and output channel that the weight brings along.
#pragma once
#include "cuda/conv2d/stage.h"

namespace mbu::cuda {

// Rows of a warp's activations as fragments: four 8 x 4 word matrices are rows 0-7 and 8-15 of the first
// half of the words, then of the second.
MBU_DEVICE void load_rows(Word (&a)[4], uint32_t stage, int first_row) {
  const int lane = thread_index() % kWarpLanes;
  load_matrix_x4(a, stage + row_offset(first_row + lane % 16, lane / 16 * 4));
}

// Two fragments of weights: channels 0-7 (both halves of their words), then channels 8-15.
MBU_DEVICE void load_columns(Word (&b)[4], uint32_t stage, int first_row) {
  const int lane = thread_index() % kWarpLanes;
  load_matrix_x4(b, stage + row_offset(first_row + lane / 16 * 8 + lane % 8, lane / 8 % 2 * 4));
}

// Stages in shared memory: enough to cover the latency of global memory with cp.async; without it one to read
// and one to write. Bytes are eight times as many products a stage, so two stages cover as much.
struct XorSm80 {
  static constexpr bool kAsync = true;
  static constexpr int kStages = 4;
  static constexpr bool kCountsRows = false;
  static MBU_DEVICE Word activation(Word a, int) { return a; }
  template <int kHalves = 2>
  static MBU_DEVICE void mma(int32_t (&c)[4], const Word (&a)[4], Word b0, Word b1) {
    if constexpr (kHalves == 2)
      mma_xor_m16n8k256(c, a, b0, b1);
    else
      mma_xor_m16n8k128(c, a[0], a[1], b0);
  }
};

struct AndSm90 {
  static constexpr bool kAsync = true;
  static constexpr int kStages = 4;
  static constexpr bool kCountsRows = true;
  static MBU_DEVICE Word activation(Word a, int plane) { return plane ? ~a : a; }
  template <int kHalves = 2>
  static MBU_DEVICE void mma(int32_t (&c)[4], const Word (&a)[4], Word b0, Word b1) {
    if constexpr (kHalves == 2)
      mma_and_m16n8k256(c, a, b0, b1);
    else
      mma_and_m16n8k128(c, a[0], a[1], b0);
  }
};

struct XorSm75 {
  static constexpr bool kAsync = false;
  static constexpr int kStages = 2;
  static constexpr bool kCountsRows = false;
  static MBU_DEVICE Word activation(Word a, int) { return a; }
  template <int kHalves = 2>
  static MBU_DEVICE void mma(int32_t (&c)[4], const Word (&a)[4], Word b0, Word b1) {
    mma_xor_m8n8k128(c[0], c[1], a[0], b0);
    mma_xor_m8n8k128(c[2], c[3], a[1], b0);
    if constexpr (kHalves == 1) return;
    mma_xor_m8n8k128(c[0], c[1], a[2], b1);
    mma_xor_m8n8k128(c[2], c[3], a[3], b1);
  }
};

// The bits that are set in a row of activations, of the words that a lane holds. An adder in front of the
// popcount, which takes a fourth of the lanes that other instructions take: ones + x + y = 2 carry + new
// ones, in every bit. The tensor cores meanwhile have products to do.
struct SetBits {
  Word ones;
  int32_t carries;

  MBU_DEVICE void add(Word x, Word y) {
    carries += count_bits((ones & (x ^ y)) | (x & y));
    ones ^= x ^ y;
  }
  // Of all four lanes that share the row.
  MBU_DEVICE int32_t total() const {
    auto bits = static_cast<Word>(2 * carries + count_bits(ones));
    bits += shuffle_xor(bits, 1);
    bits += shuffle_xor(bits, 2);
    return static_cast<int32_t>(bits);
  }
};

template <class Form>
struct Planes {
  static constexpr bool kAsync = Form::kAsync;
  static constexpr int kStages = Form::kStages;
  template <class T, int kVector>
  using Weight = PlaneStage<T, kVector, kAsync>;
  // Rows l / 4 and l / 4 + 8 of each part, for lane l.
  template <class T>
  using Rows = SetBits[Form::kCountsRows ? T::kRowParts : 1][2];

  // Of a stage of which `words` belong to K; the others are 0 and add nothing.
  template <class T>
  static MBU_DEVICE void stage(const Conv2dParams& p, Accumulators<T>& sums, Rows<T>& rows, uint32_t input,
                               uint32_t weight, int warp_m, int warp_n, int words) {
    if (words > kStageWords / 2)
      halves<T, 2>(p, sums, rows, input, weight, warp_m, warp_n);
    else
      halves<T, 1>(p, sums, rows, input, weight, warp_m, warp_n);
  }

  template <class T, int kHalves>
  static MBU_DEVICE void halves(const Conv2dParams& p, Accumulators<T>& sums, Rows<T>& rows, uint32_t input,
                                uint32_t weight, int warp_m, int warp_n) {
    Word a[T::kRowParts][4];
#pragma unroll
    for (int i = 0; i < T::kRowParts; ++i) load_rows(a[i], input, warp_m * T::kWarpPixels + i * 16);
    if constexpr (Form::kCountsRows)
      if (p.weight_planes == 1)
#pragma unroll
        for (int i = 0; i < T::kRowParts; ++i)
#pragma unroll
          for (int e = 0; e < 2; ++e) rows[i][e].add(a[i][e], a[i][2 + e]);
#pragma unroll
    for (int plane = 0; plane < 2; ++plane) {
      if (plane == p.weight_planes) break;
#pragma unroll
      for (int i = 0; i < T::kRowParts; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) a[i][e] = Form::activation(a[i][e], plane);
#pragma unroll
      for (int j = 0; j < T::kColumnParts; j += 2) {
        Word b[4];
        load_columns(b, weight, plane * T::kChannels + warp_n * T::kWarpChannels + j * 8);
#pragma unroll
        for (int i = 0; i < T::kRowParts; ++i) {
          Form::template mma<kHalves>(sums[i][j], a[i], b[0], b[1]);
          Form::template mma<kHalves>(sums[i][j + 1], a[i], b[2], b[3]);
        }
      }
    }
  }

  template <class T>
  static MBU_DEVICE void finish(const Conv2dParams& p, const Rows<T>& rows, Accumulators<T>& sums) {
    if (!Form::kCountsRows || p.weight_planes == 2) return;
#pragma unroll
    for (int i = 0; i < T::kRowParts; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t bits = rows[Form::kCountsRows ? i : 0][half].total();
#pragma unroll
        for (int j = 0; j < T::kColumnParts; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) sums[i][j][half * 2 + e] = 2 * sums[i][j][half * 2 + e] - bits;
      }
  }
};

// Bits become bytes in registers. Which 4 channels a lane's register holds does not matter as long as both
// factors agree: lane % 4 = t and register r hold channels 2t + r, + 8, + 16, + 24, one shift and one mask.
struct Bytes {
  static constexpr bool kAsync = true;
  static constexpr int kStages = 2;
  template <class T, int kVector>
  using Weight = ByteStage<T, kAsync>;
  template <class T>
  using Rows = SetBits[1][2];

  template <class T>
  static MBU_DEVICE void finish(const Conv2dParams&, const Rows<T>&, Accumulators<T>&) {}

  // Every word is a product of its own; the last stage leaves out what only pads.
  template <class T>
  static MBU_DEVICE void stage(const Conv2dParams&, Accumulators<T>& sums, Rows<T>&, uint32_t input,
                               uint32_t weight, int warp_m, int warp_n, int words) {
    if (words == kStageWords)
      products<T, true>(sums, input, weight, warp_m, warp_n, kStageWords);
    else
      products<T, false>(sums, input, weight, warp_m, warp_n, words);
  }

  template <class T, bool kWhole>
  static MBU_DEVICE void products(Accumulators<T>& sums, uint32_t input, uint32_t weight, int warp_m,
                                  int warp_n, int words) {
    const int lane = thread_index() % kWarpLanes, shift = lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Words<4> rows[T::kRowParts][2];
#pragma unroll
      for (int i = 0; i < T::kRowParts; ++i)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          rows[i][e] = load_shared<4>(
              input + row_offset(warp_m * T::kWarpPixels + i * 16 + e * 8 + lane / 4, half * 4));
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        if (!kWhole && half * 4 + word >= words) return;
        const uint32_t bytes =
            weight + static_cast<uint32_t>((half * 4 + word) * ByteStage<T, true>::kWordBytes +
                                           warp_n * T::kWarpChannels * 32 + lane * 8);
        Words<2> b[T::kColumnParts];
#pragma unroll
        for (int j = 0; j < T::kColumnParts; ++j)
          b[j] = load_shared<2>(bytes + static_cast<uint32_t>(j * 256));
#pragma unroll
        for (int i = 0; i < T::kRowParts; ++i) {
          Word a[4];
#pragma unroll
          for (int e = 0; e < 4; ++e) a[e] = (rows[i][e % 2].word[word] >> (shift + e / 2)) & 0x01010101u;
#pragma unroll
          for (int j = 0; j < T::kColumnParts; ++j)
            mma_s8_m16n8k32(sums[i][j], a, b[j].word[0], b[j].word[1]);
        }
      }
    }
  }
};

using XorPopcSm75 = Planes<XorSm75>;
using XorPopcSm80 = Planes<XorSm80>;
using AndPopcSm90 = Planes<AndSm90>;

}  // namespace mbu::cuda
