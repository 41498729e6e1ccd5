#include "cuda/plan_gemm.h"

#include <limits>

namespace mbu::cuda {
namespace {

constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();

int64_t blocks_of(int64_t size, int64_t tile) {
  return (size + tile - 1) / tile;
}

}  // namespace

const char* plan_gemm(const Product& product, DeviceLayout layout, const int32_t* weight, GemmParams& p) {
  const DeviceWeight w{layout, product.out_channels, 1, product.words};
  if (layout == DeviceLayout::int8) return "the products of CUTLASS are of bits";
  if (product.words % 4 || product.stride % 4) return "rows are no multiples of 16 bytes";
  if (product.rows > kLargest || product.out_channels > kLargest) return "more than 2^31 rows or channels";
  // CUTLASS counts bits.
  if (product.stride > kLargest / kWordBits || w.row() > kLargest / kWordBits)
    return "rows of more than 2^31 bits";
  p.stride = static_cast<int32_t>(product.stride);
  p.rows = static_cast<int32_t>(product.rows);
  p.words = static_cast<int32_t>(product.words);
  p.out_channels = static_cast<int32_t>(product.out_channels);
  p.out_words = static_cast<int32_t>(words_of(product.out_channels));
  p.weight = reinterpret_cast<const Word*>(weight + w.data());
  p.weight_row = static_cast<int32_t>(w.row());
  p.weight_plane = w.padded_channels() * w.row();
  p.weight_planes = product.binary && layout == DeviceLayout::xor_popc ? 1 : 2;
  p.weight_sum = weight + w.weight_sum();
  return nullptr;
}

Grid gemm_grid(const GemmParams& p, int tile_rows, int tile_channels) {
  return {static_cast<uint32_t>(blocks_of(p.rows, tile_rows)),
          static_cast<uint32_t>(blocks_of(p.out_channels, tile_channels)), 1};
}

}  // namespace mbu::cuda
