// The main loop: while the tensor cores work on one stage, copies fill the others.
#pragma once
#include "cuda/conv2d/multiply.h"

namespace mbu::cuda {

template <class Form, class T, int kVector>
struct Pipeline {
  using Weight = typename Form::template Weight<T, kVector>;
  static constexpr int kStages = Form::kStages;
  static constexpr int kInputBytes = T::kPixels * kRowBytes;
  static constexpr int kStageBytes = kInputBytes + Weight::kWeightBytes;
  static constexpr int kBytes = kStages * kStageBytes;

  static MBU_DEVICE void run(const Conv2dParams& p, const Pass& pass, int32_t first_pixel,
                             int32_t first_channel, int warp_m, int warp_n, Accumulators<T>& sums) {
    InputStage<T, kVector, Form::kAsync> input(p, pass, first_pixel);
    Weight weight;
    const int words = pass.rows.taps * pass.columns.taps * p.words;
    const int steps = (words + kStageWords - 1) / kStageWords;
    const auto begin = [&](int step, uint32_t stage) {
      input.begin(p, pass, step, stage);
      weight.begin(p, pass, first_channel, step, stage + kInputBytes);
    };
    const auto finish = [&](uint32_t stage) {
      input.finish(stage);
      weight.finish(p, stage + kInputBytes);
    };

#pragma unroll 1
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < steps) {
        begin(step, step * kStageBytes);
        finish(step * kStageBytes);
      }
      if constexpr (Form::kAsync) commit_copies();
    }
    typename Form::template Rows<T> rows = {};
    uint32_t reading = 0, writing = (kStages - 1) * kStageBytes;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      // Every step commits one group, so that all but the youngest kStages - 2 have landed: the one read next
      // is among them. Behind the barrier everyone's copies are there, and nobody reads the stage that was
      // read in the step before, which is the one filled now.
      if constexpr (Form::kAsync) wait_copies<kStages - 2>();
      barrier();
      const bool more = step + kStages - 1 < steps;
      if (more) begin(step + kStages - 1, writing);
      if constexpr (Form::kAsync) commit_copies();
      const int left = words - step * kStageWords;
      Form::template stage<T>(p, sums, rows, reading, reading + kInputBytes, warp_m, warp_n,
                              left < kStageWords ? left : kStageWords);
      if (more) finish(writing);
      reading = reading + kStageBytes == kBytes ? 0 : reading + kStageBytes;
      writing = writing + kStageBytes == kBytes ? 0 : writing + kStageBytes;
    }
    Form::template finish<T>(p, rows, sums);
  }
};

}  // namespace mbu::cuda
