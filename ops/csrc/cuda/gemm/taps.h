// Input pixels for a main loop of CUTLASS: rows are output pixels, K runs over taps and the words of a pixel.
//
// CUTLASS's own iterators walk a matrix; these walk an image in its place (an implicit matrix product). Every
// source fills whole stages of K, so a stage lies within one tap of one source and its place is found once.
// A tap outside the image reads as zero bits, which conv2d/dots.h puts right.
#pragma once
#include "cuda/conv2d/tile.h"
#include "cutlass/gemm/kernel/default_gemm_universal.h"

namespace mbu::cuda {

// The places that one thread copies from, for loops that copy access by access (cp.async).
template <class Matrix>
class TapAccesses {
 public:
  using Element = typename Matrix::Element;
  using Layout = typename Matrix::Layout;
  using ThreadMap = typename Matrix::ThreadMap;
  using AccessType = cutlass::AlignedArray<Element, 128>;
  static constexpr int kAccessesPerVector = 1;
  static constexpr int kRows = ThreadMap::Iterations::kStrided, kBitsOfStage = Matrix::Shape::kColumn;
  static_assert(ThreadMap::kElementsPerAccess == AccessType::kElements, "a copy is one access");
  static_assert(ThreadMap::Iterations::kContiguous == 1, "a thread copies once from a row");

  MBU_DEVICE TapAccesses(const Conv2dParams& p, const Pass& pass, int32_t first_pixel, int thread)
      : p_(p), pass_(pass) {
    const auto own = ThreadMap::initial_offset(thread);
    word_ = own.contiguous() / 32;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int32_t index = first_pixel + own.strided() + i * ThreadMap::Delta::kStrided;
      const Pixel px = pass.pixel(index < pass.pixels ? index : 0);
      n_[i] = index < pass.pixels ? px.n : -1;  // no such pixel: every tap is outside
      const int32_t y = px.y * p.step_h + pass.rows.offset, x = px.x * p.step_w + pass.columns.offset;
      place_[i] = static_cast<int32_t>(static_cast<uint32_t>(y) << 16 | (static_cast<uint32_t>(x) & 0xffff));
    }
    go_to(0);
  }

  MBU_DEVICE void set_iteration_index(int index) { row_ = index; }
  MBU_DEVICE TapAccesses& operator++() {
    ++row_;
    return *this;
  }
  // Loops advance by one stage.
  MBU_DEVICE void add_tile_offset(const typename Matrix::TensorCoord&) { go_to(step_ + 1); }
  MBU_DEVICE void clear_mask(bool clear = true) { live_ = live_ && !clear; }

  MBU_DEVICE bool valid() const {
    return live_ && n_[row_] >= 0 && !outside(y(), p_.height) && !outside(x(), p_.width);
  }
  MBU_DEVICE AccessType* get() const {
    const ConvSource& source = p_.source[second_];
    const Word* from = source.data;
    if (valid())
      from += n_[row_] * source.stride_n + quotient_of(y(), source.upsample) * source.stride_h +
              quotient_of(x(), source.upsample) * source.stride_w + at_;
    return reinterpret_cast<AccessType*>(const_cast<Word*>(from));
  }

 private:
  MBU_DEVICE int32_t y() const { return (place_[row_] >> 16) + dy_; }
  MBU_DEVICE int32_t x() const { return static_cast<int16_t>(place_[row_]) + dx_; }

  MBU_DEVICE void go_to(int32_t step) {
    step_ = step;
    const KPlace at = k_place(p_, pass_, step * (kBitsOfStage / 32));
    second_ = at.word >= p_.source[0].words;
    at_ = at.word - (second_ ? p_.source[0].words : 0) + word_;
    dy_ = at.row_tap * pass_.rows.offset_step;
    dx_ = at.column_tap * pass_.columns.offset_step;
  }

  const Conv2dParams& p_;
  const Pass& pass_;
  int32_t n_[kRows], place_[kRows];  // the first tap's row and column as two 16-bit halves (plan.h)
  int32_t word_, step_, at_, dy_, dx_, row_ = 0;
  bool second_, live_ = true;
};

// The same for loops that copy a stage through registers.
template <class Matrix>
class TapTiles {
 public:
  using Element = typename Matrix::Element;
  using Layout = typename Matrix::Layout;
  using ThreadMap = typename Matrix::ThreadMap;
  using Fragment = typename Matrix::Fragment;
  using Accesses = TapAccesses<Matrix>;

  MBU_DEVICE TapTiles(const Conv2dParams& p, const Pass& pass, int32_t first_pixel, int thread)
      : accesses_(p, pass, first_pixel, thread) {}
  MBU_DEVICE TapTiles& operator++() {
    accesses_.add_tile_offset({});
    return *this;
  }
  MBU_DEVICE void clear_mask(bool clear = true) { accesses_.clear_mask(clear); }
  // Absent places keep what the fragment holds: the loop has cleared it.
  MBU_DEVICE void load(Fragment& to) {
    auto* pieces = reinterpret_cast<typename Accesses::AccessType*>(&to);
#pragma unroll
    for (int i = 0; i < Accesses::kRows; ++i) {
      accesses_.set_iteration_index(i);
      if (accesses_.valid()) pieces[i] = *accesses_.get();
    }
  }

 private:
  Accesses accesses_;
};

// A loop of CUTLASS with its first operand read from an image. Where a matrix ends, loops leave in shared
// memory what was there; a tap outside the image has to be zeros.
template <class Mma>
struct OverTaps;

template <class Shape, class A, class SharedA, cutlass::arch::CacheOperation::Kind kCacheA, class B,
          class SharedB, cutlass::arch::CacheOperation::Kind kCacheB, class Sum, class SumLayout,
          class Policy, int kStages, cutlass::gemm::SharedMemoryClearOption kClear, class Enable>
struct OverTaps<cutlass::gemm::threadblock::MmaMultistage<Shape, A, SharedA, kCacheA, B, SharedB, kCacheB,
                                                          Sum, SumLayout, Policy, kStages, kClear, Enable>> {
  using type = cutlass::gemm::threadblock::MmaMultistage<Shape, TapAccesses<A>, SharedA, kCacheA, B, SharedB,
                                                         kCacheB, Sum, SumLayout, Policy, kStages,
                                                         cutlass::gemm::SharedMemoryClearOption::kZfill>;
};

template <class Shape, class A, class SharedA, class B, class SharedB, class Sum, class SumLayout,
          class Policy, class... More>
struct OverTaps<cutlass::gemm::threadblock::MmaPipelined<Shape, A, SharedA, B, SharedB, Sum, SumLayout,
                                                         Policy, More...>> {
  using type = cutlass::gemm::threadblock::MmaPipelined<Shape, TapTiles<A>, SharedA, B, SharedB, Sum,
                                                        SumLayout, Policy>;
};

}  // namespace mbu::cuda
