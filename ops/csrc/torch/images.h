// Packed activations as the kernels see them, checked.
#pragma once
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
