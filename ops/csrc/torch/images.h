// Packed activations as the kernels see them, checked.
#pragma once
#include <algorithm>
#include <vector>

#include "mbu/params.h"
#include "torch/check.h"
#include "torch/ops.h"
#include "torch/shapes.h"

namespace mbu {
namespace {  // the place differs between the files that include this one

inline const Word* words(const Tensor& tensor) {
  return static_cast<const Word*>(tensor.const_data_ptr());
}

inline PackedImage image(const char* op, const Tensor& bits) {
  check_bits(op, bits);
  return {words(bits),  bits.size(0),   bits.size(1),   bits.size(2),
          bits.size(3), bits.stride(0), bits.stride(1), bits.stride(2)};
}

// The largest divisor of `rows` up to 256: a band of an image of that width is a good share of the work.
inline int64_t image_width(int64_t rows) {
  int64_t width = std::max<int64_t>(std::min<int64_t>(rows, 256), 1);
  while (rows % width) --width;
  return width;
}

// Packed rows [..., ceil(C/32)] as one image, for which a matrix product is a 1x1 convolution.
struct PackedRows {
  Tensor bits;  // [rows, words], keeps the memory of `image`
  PackedImage image;
  std::vector<int64_t> leading;  // sizes before the last

  // [rows, ...] as [..., last].
  Tensor spread(const Tensor& result, int64_t last) const {
    std::vector<int64_t> sizes = leading;
    sizes.push_back(last);
    return torch::stable::reshape(result, sizes);
  }
};

inline PackedRows packed_rows(const char* op, const Tensor& bits) {
  check_here(op, "bits", bits);
  MBU_CHECK(bits.scalar_type() == ScalarType::Int, op, ": bits is ",
            torch::headeronly::toString(bits.scalar_type()),
            "; packed activations are int32 (see mbu_ops.functional.pack)");
  MBU_CHECK(bits.dim() >= 1, op, ": bits has no dimension; it must be [..., ceil(C/32)]");
  PackedRows made{bits, {}, {}};
  int64_t rows = 1;
  for (int64_t i = 0; i + 1 < bits.dim(); ++i) {
    made.leading.push_back(bits.size(i));
    rows *= bits.size(i);
  }
  const int64_t words = bits.size(bits.dim() - 1);
  made.bits = torch::stable::reshape(bits, {rows, words});
  if (words > 1 && made.bits.stride(1) != 1) made.bits = torch::stable::contiguous(made.bits);
  const int64_t stride = made.bits.stride(0), width = image_width(rows);
  made.image = {mbu::words(made.bits), 1, rows / width, width, words, rows * stride, width * stride, stride};
  return made;
}

// The input of a convolution.
struct Joined {
  PackedImage image;
  std::vector<PackedImage> parts;  // none where `image` is all of it
};

// Joins `bits` along the channels, each brought to `size` by nearest.
inline Joined join(const char* op, const Images& bits, MaybePair size) {
  MBU_CHECK(!bits.empty(), op, ": bits is an empty list; give at least one packed tensor");
  Joined joined;
  int64_t words = 0;
  for (const Tensor& part : bits) {
    joined.parts.push_back(image(op, part));
    words += joined.parts.back().words;
  }
  PackedImage& all = joined.image = joined.parts[0];
  all.words = words;
  const bool resizes = size && size->size() > 0;
  if (resizes) {
    const Extent wanted = pair(op, "size", *size, 1);
    all.height = wanted.h;
    all.width = wanted.w;
  }
  bool plain = bits.size() == 1;
  for (const PackedImage& part : joined.parts) {
    const bool same = part.height == all.height && part.width == all.width;
    MBU_CHECK(part.batch == all.batch, op, ": bits has parts of ", all.batch, " and ", part.batch,
              " images; they must agree");
    MBU_CHECK(same || resizes, op, ": bits has parts of ", all.height, "x", all.width, " and ", part.height,
              "x", part.width, " pixels; give the size that all are brought to (size=[H, W])");
    MBU_CHECK(same || (part.height > 0 && part.width > 0), op, ": a part of bits has ", part.height, "x",
              part.width, " pixels, which no size can be made of; it needs at least one");
    plain = plain && same;
  }
  if (plain) joined.parts.clear();
  return joined;
}

}  // namespace
}  // namespace mbu
