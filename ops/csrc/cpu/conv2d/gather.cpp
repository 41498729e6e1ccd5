#include "cpu/conv2d/gather.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace mbu {
namespace {

// torch's nearest: the rounding of the float product is part of the definition.
int64_t nearest(int64_t index, float scale, int64_t size) {
  return std::min(static_cast<int64_t>(std::floor(static_cast<float>(index) * scale)), size - 1);
}

// to[i * to_stride] = from[column[i] * stride], `words` words each. kWords: the same at compile time, or 0.
template <int64_t kWords>
void copy_pixels(const Word* from, int64_t stride, const int32_t* column, int64_t count, Word* to,
                 int64_t to_stride, int64_t words) {
  const size_t bytes = static_cast<size_t>(kWords ? kWords : words) * sizeof(Word);
  if (column)
    for (int64_t i = 0; i < count; ++i, to += to_stride) std::memcpy(to, from + column[i] * stride, bytes);
  else
    for (int64_t i = 0; i < count; ++i, to += to_stride, from += stride) std::memcpy(to, from, bytes);
}

}  // namespace

int64_t Gather::Part::row(int64_t y, int64_t height) const {
  return image.height == height ? y : nearest(y, row_scale, image.height);
}

bool Gather::Part::in_one_piece(int64_t height, int64_t width) const {
  return image.height == height && image.width == width && image.stride_w == image.words &&
         image.stride_h == width * image.words;
}

// Columns [begin, begin + count) of row y of the part, to pixels of `words` words.
void Gather::Part::copy_row(int64_t n, int64_t y, int64_t begin, int64_t count, Word* to,
                            int64_t words) const {
  const Word* from = image.data + n * image.stride_n + y * image.stride_h;
  const int32_t* columns = column.empty() ? nullptr : column.data() + begin;
  if (!columns) {
    from += begin * image.stride_w;
    if (image.stride_w == words && image.words == words) {
      std::memcpy(to, from, static_cast<size_t>(count * words) * sizeof(Word));
      return;
    }
  }
  switch (image.words) {
    case 1:
      return copy_pixels<1>(from, image.stride_w, columns, count, to, words, 1);
    case 2:
      return copy_pixels<2>(from, image.stride_w, columns, count, to, words, 2);
    case 4:
      return copy_pixels<4>(from, image.stride_w, columns, count, to, words, 4);
    case 8:
      return copy_pixels<8>(from, image.stride_w, columns, count, to, words, 8);
    case 16:
      return copy_pixels<16>(from, image.stride_w, columns, count, to, words, 16);
    default:
      return copy_pixels<0>(from, image.stride_w, columns, count, to, words, image.words);
  }
}

void Gather::plan(const Conv2dParams& p) {
  height_ = p.input.height;
  width_ = p.input.width;
  words_ = p.input.words;
  parts_ = std::max<int64_t>(p.parts, 1);
  if (static_cast<int64_t>(part_.size()) < parts_) part_.resize(static_cast<size_t>(parts_));
  for (int64_t i = 0; i < parts_; ++i) {
    Part& part = part_[static_cast<size_t>(i)];
    part.image = p.parts ? p.part[i] : p.input;
    part.row_scale = static_cast<float>(part.image.height) / static_cast<float>(height_);
    part.column.clear();
    if (part.image.width == width_) continue;
    const float scale = static_cast<float>(part.image.width) / static_cast<float>(width_);
    for (int64_t x = 0; x < width_; ++x)
      part.column.push_back(static_cast<int32_t>(nearest(x, scale, part.image.width)));
  }
}

void Gather::copy(int64_t n, int64_t y0, int64_t y1, int64_t x0, int64_t x1, Word* to) const {
  const int64_t left = std::clamp<int64_t>(-x0, 0, x1 - x0), begin = std::max<int64_t>(x0, 0);
  const int64_t inside = std::max<int64_t>(std::min(x1, width_) - begin, 0);
  const int64_t row_words = (x1 - x0) * words_;
  const auto first = part_.begin(), last = first + parts_;
  if (parts_ == 1 && first->in_one_piece(height_, width_) && x0 == 0 && x1 == width_) {
    const int64_t above = std::clamp<int64_t>(-y0, 0, y1 - y0);
    const int64_t rows = std::max<int64_t>(std::min(y1, height_) - y0 - above, 0);
    std::fill(to, to + above * row_words, Word{0});
    if (rows > 0)
      std::memcpy(to + above * row_words,
                  first->image.data + n * first->image.stride_n + (y0 + above) * row_words,
                  static_cast<size_t>(rows * row_words) * sizeof(Word));
    std::fill(to + (above + rows) * row_words, to + (y1 - y0) * row_words, Word{0});
    return;
  }
  // Zeros go in run by run, the end of a row with the start of the next: narrow images have many.
  Word* zero = to;
  for (int64_t y = std::max<int64_t>(y0, 0); y < std::min(y1, height_) && inside > 0; ++y) {
    Word* row = to + (y - y0) * row_words + left * words_;
    std::fill(zero, row, Word{0});
    zero = row + inside * words_;
    const bool repeats = y > y0 && y > 0 && std::all_of(first, last, [&](const Part& part) {
                           return part.row(y, height_) == part.row(y - 1, height_);
                         });
    if (repeats) {
      std::memcpy(row, row - row_words, static_cast<size_t>(inside * words_) * sizeof(Word));
      continue;
    }
    Word* pixel = row;
    for (auto part = first; part != last; pixel += part->image.words, ++part)
      part->copy_row(n, part->row(y, height_), begin, inside, pixel, words_);
  }
  std::fill(zero, to + (y1 - y0) * row_words, Word{0});
}

}  // namespace mbu
