// The portable conv2d: 4 pixels x 32 output channels in plain C++. Read this one first; the others do the
// same with wider registers.
#include "cpu/kernels.h"

namespace mbu {
namespace {

constexpr int64_t kPixels = 4;

// Bits set in x. Written out, it vectorises on every processor; the builtin is a library call where the
// compiler may not assume a popcount instruction.
inline uint32_t popc(uint32_t x) {
  x -= (x >> 1) & 0x55555555u;
  x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0fu;
  x += x >> 8;
  return (x + (x >> 16)) & 0x3fu;
}

// Epilogue for one pixel: 32 counts to 32 sums, or to one output word per plane.
void finish(const Conv2dTile& t, int64_t pixel, int64_t tile, const uint32_t* counts) {
  const int32_t* row = t.table + t.border[pixel] + tile * kTileChannels;
  if (t.sums) {
    float* sums = t.sums + t.target[pixel] + tile * kTileChannels;
    const int64_t left = t.channels - tile * kTileChannels;
    for (int64_t c = 0; c < kTileChannels && c < left; ++c)
      sums[c] = static_cast<float>(row[c] - 2 * static_cast<int32_t>(counts[c]));
    return;
  }
  for (int64_t plane = 0; plane < t.planes; ++plane, row += t.channels_padded) {
    Word bits = 0;
    for (int64_t c = 0; c < kTileChannels; ++c)
      bits |= static_cast<Word>(static_cast<int32_t>(counts[c]) <= row[c]) << c;
    const int64_t word = plane * t.out_words + tile;
    t.bits[t.target[pixel] + word] = bits ^ t.flip[word];
  }
}

}  // namespace

void conv2d_4x32__scalar(const Conv2dTile& t) {
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    const Word* weight = t.weight + tile * t.weight_stride;
    for (int64_t first = 0; first < t.pixels; first += kPixels) {
      const int64_t pixels = t.pixels - first < kPixels ? t.pixels - first : kPixels;
      uint32_t counts[kPixels][kTileChannels] = {};
      for (int64_t i = 0; i < t.runs; ++i) {
        const Word* sign = weight + t.run[i].weight;
        for (int64_t k = 0; k < t.run[i].count; ++k, sign += 2 * kTileChannels) {
          const Word* mask = sign + kTileChannels;
          for (int64_t p = 0; p < pixels; ++p) {
            const Word a = t.input[t.source[first + p] + t.run[i].source + k];
            for (int64_t c = 0; c < kTileChannels; ++c) counts[p][c] += popc((a ^ sign[c]) & mask[c]);
          }
        }
      }
      for (int64_t p = 0; p < pixels; ++p) finish(t, first + p, tile, counts[p]);
    }
  }
}

}  // namespace mbu
