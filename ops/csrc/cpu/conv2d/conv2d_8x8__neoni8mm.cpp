// conv2d with the I8MM extension: `smmla` multiplies 2 pixels x 8 inputs by 8 inputs x 2 channels and adds to
// 4 counters. The band's bits become bytes once (grids.h), cells of 8 channels: two neighbours are a
// register.
//
// 8 pixels x 8 channels are 16 registers of counters, beside 4 of pixels and 4 of weights. Per 8 inputs, 16
// smmla and 8 loads for 512 products: 32 multiply-adds per vector operation, loads apart. The popcount
// kernels: 1024 products in 32 operations and 2 broadcasts (`neon`, 30 each), in 24 and 2 with SHA3 (39
// each), from an eighth of the bytes. So this kernel stands between the two.
#include <arm_neon.h>

#include <cstring>

#include "cpu/conv2d/grids.h"
#include "cpu/unroll.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

constexpr int kPixels = 8, kChannels = 8;  // of a tile
constexpr int kPairs = 4;                  // of pixels, and of channels
constexpr int64_t kCellChannels = 8, kCells = kWordBits / kCellChannels;
constexpr ByteShape kShape{1, kCells, kCellChannels};

// A word of each pixel, to 4 planes `plane` bytes apart.
void expand_word(const Word* from, int64_t stride, int64_t count, int64_t plane, int8_t* to) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201)), one = vdupq_n_u8(1);
  const uint8x16_t first = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  for (; count > 0; --count, from += stride, to += kCellChannels) {
    const uint8x16_t word = vreinterpretq_u8_u32(vdupq_n_u32(*from));
    const uint8x16_t a = vandq_u8(vtstq_u8(vqtbl1q_u8(word, first), bit), one);
    const uint8x16_t b = vandq_u8(vtstq_u8(vqtbl1q_u8(word, vaddq_u8(first, vdupq_n_u8(2))), bit), one);
    vst1_u8(reinterpret_cast<uint8_t*>(to), vget_low_u8(a));
    vst1_u8(reinterpret_cast<uint8_t*>(to + plane), vget_high_u8(a));
    vst1_u8(reinterpret_cast<uint8_t*>(to + 2 * plane), vget_low_u8(b));
    vst1_u8(reinterpret_cast<uint8_t*>(to + 3 * plane), vget_high_u8(b));
  }
}

// The counts of one pixel and 8 channels to sums, or to one byte of an output word per plane.
MBU_INLINE void finish(const Conv2dTile& t, int64_t pixel, int64_t channel, int32x4_t low, int32x4_t high) {
  const int32_t* row = t.table + t.border[pixel] + channel;
  if (t.sums) {
    float sums[kChannels];
    vst1q_f32(sums, vcvtq_f32_s32(vmlsq_n_s32(vld1q_s32(row), low, 2)));
    vst1q_f32(sums + 4, vcvtq_f32_s32(vmlsq_n_s32(vld1q_s32(row + 4), high, 2)));
    const int64_t count = std::min<int64_t>(t.channels - channel, kChannels);
    std::memcpy(t.sums + t.target[pixel] + channel, sums, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const uint32x4_t bit = {1, 2, 4, 8};
  int64_t word = channel / kTileChannels;
  const int64_t byte = channel % kTileChannels / 8;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, row += t.channels_padded) {
    const uint32x4_t a = vandq_u32(vcleq_s32(low, vld1q_s32(row)), bit);
    const uint32x4_t b = vandq_u32(vcleq_s32(high, vld1q_s32(row + 4)), vshlq_n_u32(bit, 4));
    const uint32_t bits = vaddvq_u32(vorrq_u32(a, b)) ^ (t.flip[word] >> (8 * byte));
    reinterpret_cast<uint8_t*>(t.bits + t.target[pixel] + word)[byte] = static_cast<uint8_t>(bits);
  }
}

// Bytes of output words above the last channel.
void clear(const Conv2dTile& t, int64_t channel) {
  for (int64_t pixel = 0; t.bits && pixel < t.pixels; ++pixel)
    for (int64_t plane = 0; plane < t.planes; ++plane) {
      Word* word = t.bits + t.target[pixel] + plane * t.out_words + channel / kTileChannels;
      reinterpret_cast<uint8_t*>(word)[channel % kTileChannels / 8] = 0;
    }
}

void run_tile(const Conv2dTile& t, const Grids& g, const std::vector<ByteStep>& steps,
              const PixelTile& pixels, int64_t channel, const int8_t* bytes, const int8_t* weight) {
  const int64_t plane_bytes = g.pixels * kCellChannels;
  int32x4_t counts[kPairs][kPairs];  // [pixels][channels]: two of one pixel, two of the next
  each<kPairs>([&](int i)
                   MBU_LAMBDA { each<kPairs>([&](int j) MBU_LAMBDA { counts[i][j] = vdupq_n_s32(0); }); });
  for (const ByteStep& step : steps) {
    const int8_t* input = bytes + pixels.start * kCellChannels + step.input;
    const int8_t* w = weight + step.first * kWordBits * kTileChannels;
#pragma GCC unroll 1  // unrolled, GCC 12 runs out of registers
    for (int64_t cell = 0; cell < kCells; ++cell, input += plane_bytes, w += kCellChannels * kChannels) {
      int8x16_t a[kPairs], b[kPairs];
      each<kPairs>([&](int i) MBU_LAMBDA {
        a[i] = vld1q_s8(input + 16 * i);
        b[i] = vld1q_s8(w + 16 * i);
      });
      each<kPairs>([&](int i) MBU_LAMBDA {
        each<kPairs>([&](int j) MBU_LAMBDA { counts[i][j] = vmmlaq_s32(counts[i][j], a[i], b[j]); });
      });
    }
  }
  int32x4_t low[kPixels], high[kPixels];
  each<kPairs>([&](int i) MBU_LAMBDA {
    auto join = [&](int j, bool second) MBU_LAMBDA {
      const int64x2_t x = vreinterpretq_s64_s32(counts[i][j]), y = vreinterpretq_s64_s32(counts[i][j + 1]);
      return vreinterpretq_s32_s64(second ? vtrn2q_s64(x, y) : vtrn1q_s64(x, y));
    };
    low[2 * i] = join(0, false);
    high[2 * i] = join(2, false);
    low[2 * i + 1] = join(0, true);
    high[2 * i + 1] = join(2, true);
  });
  int64_t pixel = pixels.pixel;
  for (int p = 0; p < kPixels; ++p)
    if (pixels.exists >> p & 1) finish(t, pixel++, channel, low[p], high[p]);
}

}  // namespace

void conv2d_8x8__neoni8mm(const Conv2dTile& t) {
  static thread_local Scratch memory;
  static thread_local Grids grids;
  static thread_local std::vector<ByteStep> kept;
  plan_steps(t, kShape, grids);
  plan_tiles(t, kPixels, grids);
  const int64_t words = t.picture.words, plane_bytes = grids.pixels * kCellChannels;
  // The last tile may start at the last pixel and read 7 more.
  auto* bytes = memory.get<int8_t>(words * kCells * plane_bytes + kPixels * kCellChannels);
  for (int64_t word = 0; word < words; ++word)
    expand(t, grids, word, kCellChannels, bytes + word * kCells * plane_bytes,
           [&](const Word* from, int64_t stride, int64_t count, int8_t* to) {
             expand_word(from, stride, count, plane_bytes, to);
           });
  for (int64_t channel = t.tile_begin * kTileChannels; channel < t.tile_end * kTileChannels;
       channel += kChannels) {
    if (channel >= t.channels) {
      clear(t, channel);
      continue;
    }
    const auto* weight =
        reinterpret_cast<const int8_t*>(t.weight + channel / kTileChannels * t.weight_stride) +
        channel % kTileChannels * kWordBits;
    const auto& steps = steps_of_tile(t, grids, channel / kTileChannels, kept);
    for (const PixelTile& pixels : grids.tiles) run_tile(t, grids, steps, pixels, channel, bytes, weight);
  }
}

}  // namespace mbu
