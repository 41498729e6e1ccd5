// Neutral weight planes [2, OC, KH, KW, Cw] -> the layouts of types.h.
#include <algorithm>
#include <bit>
#include <cstring>

#include "cpu/kernels.h"

namespace mbu {
namespace {

// Words are left out where at least one in this many is absent: fewer do not pay for a list per tile.
constexpr int64_t kSkipShare = 16;
// Where three eighths are absent, the dense kernels that leave them out overtake Winograd's form.
constexpr int64_t kSparseShare = 8;

void place_bits(Word sign, Word mask, int64_t channel, Word* tile) {
  tile[channel] = sign;
  tile[kTileChannels + channel] = mask;
}

// The weights of one word, negated, into rows of 8 inputs.
void place_int8_rows(Word sign, Word mask, int64_t channel, int8_t* step) {
  int8_t* group = step + channel / 8 * 8 * kWordBits + channel % 8 * 8;
  for (int64_t bit = 0; bit < kWordBits; ++bit)
    group[bit / 8 * 64 + bit % 8] = static_cast<int8_t>((mask >> bit & 1) - 2 * (sign >> bit & 1));
}

}  // namespace

WordRanges find_word_ranges(const Word* planes, int64_t out_channels, int64_t taps, int64_t words) {
  const Word* mask = planes + out_channels * taps * words;
  WordRanges ranges{std::vector<int32_t>(static_cast<size_t>(words_of(out_channels))), 1};
  for (size_t tile = 0; tile < ranges.first.size(); ++tile) {
    const int64_t begin = static_cast<int64_t>(tile) * kTileChannels;
    const int64_t end = std::min(begin + kTileChannels, out_channels);
    int64_t first = words, last = 0;  // of the words that are not zero
    for (int64_t i = begin * taps; i < end * taps; ++i) {
      for (int64_t k = 0; k < words; ++k) {
        if (mask[i * words + k] == 0) continue;
        first = std::min(first, k);
        last = std::max(last, k);
      }
    }
    ranges.first[tile] = static_cast<int32_t>(first);
    ranges.count = std::max(ranges.count, last + 1 - first);
  }
  for (int32_t& first : ranges.first) first = std::min(first, static_cast<int32_t>(words - ranges.count));
  return ranges;
}

void tile_weight(const Word* planes, int64_t out_channels, Extent kernel, int64_t words, WeightLayout layout,
                 const WordRanges& ranges, int32_t* tiled) {
  const int64_t taps = kernel.h * kernel.w;
  std::memset(
      tiled, 0,
      static_cast<size_t>(TiledWeight::size(layout, out_channels, kernel, ranges.count)) * sizeof(int32_t));
  auto& header = *reinterpret_cast<TiledWeightHeader*>(tiled);
  header.magic = TiledWeightHeader::kMagic;
  header.out_channels = static_cast<int32_t>(out_channels);
  header.kernel_h = static_cast<int32_t>(kernel.h);
  header.kernel_w = static_cast<int32_t>(kernel.w);
  header.words = static_cast<int32_t>(words);
  header.layout = layout;
  header.tile_words = static_cast<int32_t>(ranges.count);

  const TiledWeight weight{tiled};
  const int64_t padded = weight.padded_channels(), plane = out_channels * taps * words;
  auto* weight_sum = const_cast<int32_t*>(weight.weight_sum());
  auto* tap_nnz = const_cast<int32_t*>(weight.nnz());
  auto* tiles = const_cast<Word*>(weight.tiles());
  const int64_t present_words = TiledWeight::present_words(taps, ranges.count);
  header.binary = 1;
  std::copy(ranges.first.begin(), ranges.first.end(), const_cast<int32_t*>(weight.first_word()));
  for (int64_t oc = 0; oc < out_channels; ++oc) {
    Word* tile = tiles + oc / kTileChannels * weight.tile_stride();
    auto* present = const_cast<Word*>(weight.present(oc / kTileChannels));
    const int64_t channel = oc % kTileChannels, first = ranges.first[static_cast<size_t>(oc / kTileChannels)];
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t k = 0; k < ranges.count; ++k) {
        const Word* source = planes + (oc * taps + tap) * words + first + k;
        const Word mask = source[plane], sign = source[0] & mask;
        const int64_t place = tap * ranges.count + k;
        header.binary &= mask == ~Word{0};
        if (mask) present[place / kWordBits] |= Word{1} << place % kWordBits;
        const int32_t nnz = std::popcount(mask), sum = 2 * std::popcount(sign) - nnz;
        weight_sum[tap * padded + oc] += sum;
        tap_nnz[tap * padded + oc] += nnz;
        if (layout == WeightLayout::bits)
          place_bits(sign, mask, channel, tile + place * 2 * kTileChannels);
        else
          place_int8_rows(sign, mask, channel,
                          reinterpret_cast<int8_t*>(tile) + place * kWordBits * kTileChannels);
      }
    }
  }
  const int64_t tile_count = padded / kTileChannels, all = tile_count * taps * ranges.count;
  int64_t present = 0;
  for (int64_t i = 0; i < tile_count * present_words; ++i) present += std::popcount(weight.present(0)[i]);
  header.skips = kSkipShare * present <= (kSkipShare - 1) * all;
  header.sparse = kSparseShare * present <= (kSparseShare - 3) * all;
}

}  // namespace mbu
