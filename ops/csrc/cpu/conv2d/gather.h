// The input of a band, brought into one place: a ring of zero bits around the image, and where the input is
// several images joined along the channels, the words of each, enlarged by nearest where its size differs.
// Concat and upsampling so cost no pass of their own.
#pragma once
#include <cstdint>
#include <vector>

#include "mbu/params.h"

namespace mbu {

class Gather {
 public:
  // Takes the input of `params`, which must outlive the copies.
  void plan(const Conv2dParams& params);

  // Rows [y0, y1) and columns [x0, x1) of image n, zero bits where they lie outside it, to
  // to[y1 - y0, x1 - x0, words].
  void copy(int64_t n, int64_t y0, int64_t y1, int64_t x0, int64_t x1, Word* to) const;

 private:
  struct Part {
    PackedImage image;
    float row_scale;              // of the part to the whole
    std::vector<int32_t> column;  // [width] of the part; empty: the same column

    int64_t row(int64_t y, int64_t height) const;
    bool in_one_piece(int64_t height, int64_t width) const;
    void copy_row(int64_t n, int64_t y, int64_t begin, int64_t count, Word* to, int64_t words) const;
  };

  int64_t height_, width_, words_, parts_;
  std::vector<Part> part_;  // only grows, so that a kept Gather stops allocating
};

}  // namespace mbu
