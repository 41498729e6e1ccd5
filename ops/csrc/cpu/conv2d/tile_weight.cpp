// Neutral weight planes [2, OC, KH, KW, Cw] -> the CPU layout of types.h.
#include <bit>
#include <cstring>

#include "cpu/kernels.h"

namespace mbu {

void tile_weight(const Word* planes, int64_t out_channels, Extent kernel, int64_t words, int32_t* tiled) {
  const int64_t taps = kernel.h * kernel.w;
  std::memset(tiled, 0, static_cast<size_t>(TiledWeight::size(out_channels, taps, words)) * sizeof(int32_t));
  auto& header = *reinterpret_cast<TiledWeightHeader*>(tiled);
  header.magic = TiledWeightHeader::kMagic;
  header.out_channels = static_cast<int32_t>(out_channels);
  header.kernel_h = static_cast<int32_t>(kernel.h);
  header.kernel_w = static_cast<int32_t>(kernel.w);
  header.words = static_cast<int32_t>(words);

  const TiledWeight weight{tiled};
  const int64_t padded = weight.padded_channels(), plane = out_channels * taps * words;
  auto* weight_sum = const_cast<int32_t*>(weight.weight_sum());
  auto* nnz = const_cast<int32_t*>(weight.nnz());
  auto* tiles = const_cast<Word*>(weight.tiles());
  for (int64_t oc = 0; oc < out_channels; ++oc) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t k = 0; k < words; ++k) {
        const Word* source = planes + (oc * taps + tap) * words + k;
        const Word mask = source[plane], sign = source[0] & mask;
        Word* tile = tiles + (((oc / kTileChannels) * taps + tap) * words + k) * 2 * kTileChannels;
        tile[oc % kTileChannels] = sign;
        tile[kTileChannels + oc % kTileChannels] = mask;
        weight_sum[tap * padded + oc] += 2 * std::popcount(sign) - std::popcount(mask);
        nnz[tap * padded + oc] += std::popcount(mask);
      }
    }
  }
}

}  // namespace mbu
