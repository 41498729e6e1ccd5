// Fills the stages of the pipeline: each thread copies a fixed column of its rows, kVector words at a time,
// so that the place of a K index is found once per stage and not once per row.
#pragma once
#include "cuda/conv2d/tile.h"

namespace mbu::cuda {

// A copy from global to shared memory. With cp.async it runs while the tensor cores work on another stage;
// without (sm_75) the value waits in registers until finish().
template <int kVector, int kCount, bool kAsync>
struct Copies {
  Words<kVector> value[kAsync ? 1 : kCount];

  MBU_DEVICE void begin(int index, uint32_t to, const Word* from, bool present) {
    if constexpr (kAsync)
      copy_async<kVector>(to, from, present);
    else if (present)
      value[index] = *reinterpret_cast<const Words<kVector>*>(from);
    else
      value[index] = {};
  }
  MBU_DEVICE void finish(int index, uint32_t to) {
    if constexpr (!kAsync) store_shared<kVector>(to, value[index]);
  }
};

// Rows of 8 words in shared memory, dealt to the threads of a block.
template <class T, int kRows, int kVector>
struct Deal {
  static constexpr int kColumns = kStageWords / kVector;
  static constexpr int kStep = T::kThreads / kColumns;  // rows between two of a thread
  static constexpr int kCount = kRows / kStep;
  static_assert(kRows % kStep == 0, "every thread copies equally many rows");

  static MBU_DEVICE int word() { return thread_index() % kColumns * kVector; }
  static MBU_DEVICE int row(int i) { return thread_index() / kColumns + i * kStep; }
};

// Activations. A tap outside the image reads as zero bits, which the epilogue puts right.
template <class T, int kVector, bool kAsync>
struct InputStage {
  using Rows = Deal<T, T::kPixels, kVector>;
  Copies<kVector, Rows::kCount, kAsync> copies;
  // Image, and the first tap's row and column as two 16-bit halves (plan.h refuses larger images).
  int32_t n[Rows::kCount], place[Rows::kCount];

  MBU_DEVICE InputStage(const Conv2dParams& p, const Pass& pass, int32_t first_pixel) {
#pragma unroll
    for (int i = 0; i < Rows::kCount; ++i) {
      const int32_t index = first_pixel + Rows::row(i);
      const Pixel px = pass.pixel(index < pass.pixels ? index : 0);
      n[i] = index < pass.pixels ? px.n : -1;  // no such pixel: every tap is outside
      const int32_t y = px.y * p.step_h + pass.rows.offset, x = px.x * p.step_w + pass.columns.offset;
      place[i] = static_cast<int32_t>(static_cast<uint32_t>(y) << 16 | (static_cast<uint32_t>(x) & 0xffff));
    }
  }

  MBU_DEVICE void begin(const Conv2dParams& p, const Pass& pass, int step, uint32_t stage) {
    const KPlace at = k_place(p, pass, step * kStageWords + Rows::word());
    const bool second = at.word >= p.source[0].words;
    const ConvSource& source = p.source[second];
    const int32_t word = second ? at.word - p.source[0].words : at.word;
    const int32_t dy = at.row_tap * pass.rows.offset_step, dx = at.column_tap * pass.columns.offset_step;
#pragma unroll
    for (int i = 0; i < Rows::kCount; ++i) {
      const int32_t iy = (place[i] >> 16) + dy, ix = static_cast<int16_t>(place[i]) + dx;
      const bool present = at.inside && n[i] >= 0 &&
                           static_cast<uint32_t>(iy) < static_cast<uint32_t>(p.height) &&
                           static_cast<uint32_t>(ix) < static_cast<uint32_t>(p.width);
      const Word* from = p.source[0].data;
      if (present)
        from = source.data + n[i] * source.stride_n + quotient_of(iy, source.upsample) * source.stride_h +
               quotient_of(ix, source.upsample) * source.stride_w + word;
      copies.begin(i, stage + row_offset(Rows::row(i), Rows::word()), from, present);
    }
  }
  MBU_DEVICE void finish(uint32_t stage) {
#pragma unroll
    for (int i = 0; i < Rows::kCount; ++i) copies.finish(i, stage + row_offset(Rows::row(i), Rows::word()));
  }
};

// Both planes of a weight in a bit layout, one after the other: rows of kChannels output channels.
template <class T, int kVector, bool kAsync>
struct PlaneRows {
  using Rows = Deal<T, 2 * T::kChannels, kVector>;
  Copies<kVector, Rows::kCount, kAsync> copies;

  MBU_DEVICE void begin(const Conv2dParams& p, int32_t first_channel, int32_t weight_word, bool inside,
                        uint32_t stage) {
#pragma unroll
    for (int i = 0; i < Rows::kCount; ++i) {
      const int32_t row = Rows::row(i), plane = row >= T::kChannels;
      const int32_t channel = first_channel + row - plane * T::kChannels;
      const bool present = inside && channel < p.padded_channels && plane < p.weight_planes;
      const Word* from = p.weight;
      if (present) from += (int64_t{plane} * p.padded_channels + channel) * p.weight_row + weight_word;
      copies.begin(i, stage + row_offset(row, Rows::word()), from, present);
    }
  }
  MBU_DEVICE void finish(uint32_t stage) {
#pragma unroll
    for (int i = 0; i < Rows::kCount; ++i) copies.finish(i, stage + row_offset(Rows::row(i), Rows::word()));
  }
};

// With one pass, K runs through a weight row as it lies there, so that 16 bytes at a time fit any channel
// count (rows are padded with zeros to whole stages); a phase of a transposed convolution picks its taps.
template <class T, int kVector, bool kAsync>
struct PlaneStage {
  static constexpr int kWeightBytes = 2 * T::kChannels * kRowBytes;
  PlaneRows<T, 4, kAsync> whole;
  PlaneRows<T, kVector, kAsync> picked;

  static MBU_DEVICE bool one_pass(const Conv2dParams& p) { return p.phases_h * p.phases_w == 1; }

  MBU_DEVICE void begin(const Conv2dParams& p, const Pass& pass, int32_t first_channel, int step,
                        uint32_t stage) {
    if (one_pass(p)) {
      const int32_t k = step * kStageWords + Deal<T, 2 * T::kChannels, 4>::word();
      whole.begin(p, first_channel, k, true, stage);
    } else {
      const KPlace at = k_place(p, pass, step * kStageWords + Deal<T, 2 * T::kChannels, kVector>::word());
      const int32_t tap = at.inside ? kernel_tap(p, pass, at.row_tap, at.column_tap) : 0;
      picked.begin(p, first_channel, tap * p.words + at.word, at.inside, stage);
    }
  }
  MBU_DEVICE void finish(const Conv2dParams& p, uint32_t stage) {
    if constexpr (kAsync) return;
    one_pass(p) ? whole.finish(stage) : picked.finish(stage);
  }
};

// A weight in the int8 layout: for every word of K and 8 channels, the 256 bytes of a fragment as 32 lanes
// read them, so that a word of the tile is one dense run.
template <class T, bool kAsync>
struct ByteStage {
  static constexpr int kWordBytes = 32 * T::kChannels;
  static constexpr int kWeightBytes = kStageWords * kWordBytes;
  static constexpr int kPieces = kWordBytes / 16;  // of a word
  static constexpr int kCount = kStageWords * kPieces / T::kThreads;
  static_assert(kCount >= 1 && kPieces <= T::kThreads && T::kThreads % kPieces == 0, "words are dealt whole");
  static constexpr int kWordsAtOnce = T::kThreads / kPieces;
  Copies<4, kCount, kAsync> copies;

  MBU_DEVICE void begin(const Conv2dParams& p, const Pass& pass, int32_t first_channel, int step,
                        uint32_t stage) {
    const int32_t piece = thread_index() % kPieces;
    const bool live = first_channel + piece / 2 < p.padded_channels;  // 32 bytes a channel
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int32_t word = thread_index() / kPieces + i * kWordsAtOnce;
      const KPlace at = k_place(p, pass, step * kStageWords + word);
      const bool present = live && at.inside;
      const Word* from = p.weight;
      if (present)
        from +=
            (int64_t{kernel_tap(p, pass, at.row_tap, at.column_tap) * p.words + at.word} * p.padded_channels +
             first_channel) *
                8 +
            piece * 4;
      copies.begin(i, stage + static_cast<uint32_t>(word * kWordBytes + piece * 16), from, present);
    }
  }
  MBU_DEVICE void finish(const Conv2dParams&, uint32_t) {
    static_assert(kAsync, "the int8 kernel needs cp.async (sm_80)");
  }
};

}  // namespace mbu::cuda
