#include "cuda/plan_flat.h"

#include <algorithm>
#include <limits>

#include "cuda/plan.h"

namespace mbu::cuda {
namespace {

constexpr int64_t kBlockThreads = 256;  // kFlatThreads of cuda/arithmetic.h

// Sets what every struct has; `threads_per_item` threads share an item.
template <class Params>
uint32_t plan(const ImageSize& image, int64_t items, int64_t threads_per_item, Params& p) {
  if (items <= 0 || items > std::numeric_limits<int32_t>::max() / threads_per_item - kBlockThreads) return 0;
  p.items = static_cast<int32_t>(items);
  p.by_width = divide_by(image.width);
  p.by_height = divide_by(image.height);
  return static_cast<uint32_t>((items * threads_per_item + kBlockThreads - 1) / kBlockThreads);
}

int64_t pixels_of(const ImageSize& image) {
  return image.batch * image.height * image.width;
}

}  // namespace

uint32_t plan_pack(const ImageSize& image, PackParams& p) {
  const int64_t pixels = pixels_of(image);
  p.words = static_cast<int32_t>(p.planes * words_of(p.channels));
  const uint32_t blocks = plan(image, pixels * p.words, 1, p);
  if (!blocks) return 0;
  p.by_plane = divide_by(words_of(p.channels));
  p.pixels = static_cast<int32_t>(pixels);
  p.by_pixels = divide_by(pixels);
  p.by_words = divide_by(p.words);
  return blocks;
}

uint32_t plan_unpack(const ImageSize& image, UnpackParams& p) {
  p.by_channels = divide_by(std::max<int64_t>(p.channels, 1));
  return plan(image, pixels_of(image) * p.channels, 1, p);
}

uint32_t plan_join_bits(const ImageSize& image, int64_t words, JoinBitsParams& p) {
  const auto scale = [](int64_t from, int64_t to) {
    return from == to ? 0.0f : static_cast<float>(from) / static_cast<float>(to);
  };
  for (int32_t i = 0; i < p.parts; ++i) {
    p.part[i].row_scale = scale(p.part[i].height, image.height);
    p.part[i].column_scale = scale(p.part[i].width, image.width);
  }
  p.by_words = divide_by(std::max<int64_t>(words, 1));
  return plan(image, pixels_of(image) * words, 1, p);
}

uint32_t plan_max_pool2d(const ImageSize& output, int64_t words, int vector, MaxPool2dParams& p) {
  p.by_vectors = divide_by(std::max<int64_t>(words / vector, 1));
  return plan(output, pixels_of(output) * (words / vector), 1, p);
}

uint32_t plan_stem(const ImageSize& output, StemParams& p) {
  const int64_t groups = (output.width + kStemPixels - 1) / kStemPixels;
  p.words = static_cast<int32_t>(words_of(p.out_channels));
  p.out_width = static_cast<int32_t>(output.width);
  const int64_t pairs = (p.words + 1) / 2;
  const ImageSize grouped{output.batch, output.height, groups};
  const uint32_t blocks = plan(grouped, pixels_of(grouped) * pairs, 32, p);
  if (!blocks) return 0;
  p.by_pairs = divide_by(pairs);
  return blocks;
}

}  // namespace mbu::cuda
