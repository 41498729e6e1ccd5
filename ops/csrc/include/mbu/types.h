// The meaning of a bit and the layouts of a tiled weight. Everything else follows from this page.
//
// Activations: int32 [N, H, W, ceil(C/32)]; channel c is bit c%32 of word c/32; bit 1 is +1, bit 0 is -1;
//              the bits above the last channel are 0.
// Weights:     two planes, sign and mask. mask 0: the weight is 0. mask 1: it is +1 (sign 1) or -1 (sign 0).
//              sign is a subset of mask; channels above the last have mask 0, so they never count.
//
//   dot = nnz - 2 * popc(mask & (a ^ sign))         nnz = popc(mask): products that are not zero
#pragma once
#include <cstdint>

namespace mbu {

using Word = uint32_t;
constexpr int64_t kWordBits = 32;
// Output channels of one weight tile: two 512-bit registers of 32-bit counters, and one output word.
constexpr int64_t kTileChannels = 32;

struct Extent {
  int64_t h, w;
};

constexpr int64_t words_of(int64_t channels) {
  return channels / kWordBits + (channels % kWordBits > 0);  // no sum that could overflow
}

// The bits of word `word` that belong to one of `channels` channels.
constexpr Word valid_bits(int64_t word, int64_t channels) {
  const int64_t left = channels - word * kWordBits;
  return left >= kWordBits ? ~Word{0} : left <= 0 ? Word{0} : (Word{1} << left) - 1;
}

// How a tiled weight holds its products; every CPU kernel reads one layout (kernels.inc). OCp is OC rounded
// up to 32, Tw the words of a pixel that a tile of 32 outputs meets; added channels and added inputs weigh 0.
//   bits: [OCp/32][taps][Tw][sign 32 | mask 32]
//   int8_rows: [OCp/32][taps][Tw][4][4][8][8] bytes: of 32 inputs and 32 outputs, for every 8 outputs and 8
//         inputs, a row of inputs for each output; the byte is -w
//
// A kernel counts in one of two ways, and dot = base - 2 * count in both: one table and one epilogue serve
// them.
//   bits:  count = popc(mask & (a ^ sign)), base = nnz
//   bytes: with activations 1 and 0, dot = sum (2a - 1) w = 2 sum a w - sum w, so that count = sum a (-w),
//   base = -sum w
//
// A tile meets the words [first_word, first_word + Tw) of every pixel; those it leaves out weigh 0 for all
// its outputs. So the groups of a grouped convolution, whose planes are zero outside a group's channels, cost
// what they read. Tw is the same for all tiles, and is Cw for a layer that is not sparse in this way.
enum class WeightLayout : int32_t { bits, int8_rows };

constexpr const char* name_of(WeightLayout layout) {
  return layout == WeightLayout::bits ? "bits" : "int8_rows";
}

// Head of the result of tile_weight, which is a flat array of 32-bit words:
//   header | weight_sum [taps][OCp] | nnz [taps][OCp] | first_word [OCp/32, rounded up to 16] |
//   present [OCp/32][taps * Tw / 32, rounded up], rounded up to 16 | tiles
// weight_sum is the sum of a tap's weights, nnz how many are not 0. Bit tap * Tw + k of a tile's `present` is
// 0 where all weights of word k are zero for its outputs: kernels leave those out (`skips`).
struct TiledWeightHeader {
  static constexpr int32_t kMagic = 0x3655424d;  // "MBU6": changes with the header and the layouts
  int32_t magic;
  int32_t out_channels;
  int32_t kernel_h;
  int32_t kernel_w;
  int32_t words;
  WeightLayout layout;
  int32_t tile_words;  // Tw
  int32_t skips;       // 1: enough words are absent that each tile meets only its own
  int32_t binary;      // 1: no weight is zero, and input channels fill their words
  int32_t sparse;      // 1: so many are absent that a form which multiplies with all of them takes longer
  int32_t reserved[6];
};
static_assert(sizeof(TiledWeightHeader) == 64, "tiles stay aligned to cache lines");

struct TiledWeight {
  const int32_t* data;
  bool binary = false;  // on a GPU, whose memory the host does not read: what the header says elsewhere

  const TiledWeightHeader& header() const { return *reinterpret_cast<const TiledWeightHeader*>(data); }
  int64_t taps() const { return int64_t{header().kernel_h} * header().kernel_w; }
  int64_t padded_channels() const { return words_of(header().out_channels) * kTileChannels; }
  const int32_t* weight_sum() const { return data + sizeof(TiledWeightHeader) / sizeof(int32_t); }
  const int32_t* nnz() const { return weight_sum() + taps() * padded_channels(); }
  const int32_t* first_word() const { return nnz() + taps() * padded_channels(); }
  const Word* present(int64_t tile) const {
    return reinterpret_cast<const Word*>(first_word() + round_up16(words_of(header().out_channels))) +
           tile * present_words(taps(), header().tile_words);
  }
  bool is_present(int64_t tile, int64_t word) const {
    return present(tile)[word / kWordBits] >> (word % kWordBits) & 1;
  }
  const Word* tiles() const {
    return present(0) +
           round_up16(words_of(header().out_channels) * present_words(taps(), header().tile_words));
  }
  // Words from one tile of 32 output channels to the next.
  int64_t tile_stride() const {
    return taps() * kTileChannels * words_per_tap(header().layout, header().tile_words);
  }

  // Words that one output channel takes per tap.
  static constexpr int64_t words_per_tap(WeightLayout layout, int64_t tile_words) {
    return tile_words * (layout == WeightLayout::bits ? 2 : kWordBits / 4);
  }
  static constexpr int64_t round_up16(int64_t words) { return (words + 15) / 16 * 16; }
  static constexpr int64_t present_words(int64_t taps, int64_t tile_words) {
    return (taps * tile_words + kWordBits - 1) / kWordBits;
  }
  static int64_t size(WeightLayout layout, int64_t out_channels, Extent kernel, int64_t tile_words) {
    const int64_t tiles = words_of(out_channels), taps = kernel.h * kernel.w;
    return static_cast<int64_t>(sizeof(TiledWeightHeader) / sizeof(int32_t)) + round_up16(tiles) +
           round_up16(tiles * present_words(taps, tile_words)) +
           taps * (2 + words_per_tap(layout, tile_words)) * tiles * kTileChannels;
  }
};

}  // namespace mbu
