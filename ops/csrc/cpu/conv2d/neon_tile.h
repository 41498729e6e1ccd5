// conv2d with output channels across lanes, for 128-bit registers: 4 pixels x 16 channels, half a weight
// tile. Included by one file per instruction set, which says how one register of products is formed.
//
// `cnt` counts bits per byte, so counters are bytes for as long as they cannot overflow: one `cnt` and one
// `add` per register of products, and every 31 words a widening to 32 bits. Registers: 16 of counters, 8 of
// weights, 4 of activations, 3 of products. A broadcast activation word, which costs a vector slot on many
// processors, meets 4 registers of weights. Pixels advance by post-increment, so any list of them costs the
// same.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "cpu/kernels.h"

namespace mbu {
namespace {

#define MBU_INLINE inline __attribute__((always_inline))

constexpr int64_t kHalfChannels = 16;
constexpr int kVectors = 4;         // of 4 channels in 16
constexpr int64_t kByteWords = 31;  // words, at most 8 per byte each, before a byte could pass 255

struct Counts {
  uint32x4_t v[kVectors];
};

// Adds the byte counters to the 32-bit ones and clears them.
template <int kPixels>
MBU_INLINE void widen(uint8x16_t (&bytes)[kPixels][kVectors], Counts* counts) {
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      counts[p].v[v] = vpadalq_u16(counts[p].v[v], vpaddlq_u8(bytes[p][v]));
      bytes[p][v] = vdupq_n_u8(0);
    }
  }
}

// The word at `word`, broadcast; moves on to the next. In assembly, because around the intrinsic GCC 12 adds
// five register moves to the loop over the words.
MBU_INLINE uint32x4_t broadcast_next(const Word*& word) {
  uint32x4_t a;
  __asm__ volatile("ld1r {%[a].4s}, [%[word]], #4" : [a] "=w"(a), [word] "+r"(word) : : "memory");
  return a;
}

// counts[p] = what Logic counts, over all runs, for the 16 channels whose sign words start at `weight`.
template <class Logic, int kPixels>
MBU_INLINE void count_pixels(const Conv2dTile& t, int64_t first, const Word* weight, Counts* counts) {
  uint8x16_t bytes[kPixels][kVectors];
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      counts[p].v[v] = vdupq_n_u32(0);
      bytes[p][v] = vdupq_n_u8(0);
    }
  }
  int64_t room = kByteWords;
  for (const Conv2dRun *run = t.run, *last = run + t.runs; run != last; ++run) {
    const Word* w = weight + run->weight;
    const Word* word[kPixels];
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p) word[p] = t.input + t.source[first + p] + run->source;
    for (int64_t left = run->count; left > 0;) {
      const int64_t chunk = std::min(left, room);
      for (const Word* end = w + chunk * 2 * kTileChannels; w != end; w += 2 * kTileChannels) {
        uint32x4_t sign[kVectors], mask[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          sign[v] = vld1q_u32(w + 4 * v);
          mask[v] = vld1q_u32(w + kTileChannels + 4 * v);
        }
        uint32x4_t a[kPixels];
#pragma GCC unroll 4
        for (int p = 0; p < kPixels; ++p) a[p] = broadcast_next(word[p]);
#pragma GCC unroll 4
        for (int p = 0; p < kPixels; ++p) Logic::count(a[p], sign, mask, bytes[p]);
      }
      left -= chunk;
      room -= chunk;
      if (room == 0) {
        widen<kPixels>(bytes, counts);
        room = kByteWords;
      }
    }
  }
  widen<kPixels>(bytes, counts);
}

// The products of the 16 channels that are not zero, over all runs: what turns matches into mismatches.
inline Counts count_nonzero(const Conv2dTile& t, const Word* weight) {
  Counts total{};
  for (const Conv2dRun *run = t.run, *last = run + t.runs; run != last; ++run) {
    const Word* mask = weight + run->weight + kTileChannels;
    for (int64_t k = 0; k < run->count; ++k, mask += 2 * kTileChannels)
      for (int v = 0; v < kVectors; ++v)
        total.v[v] =
            vpadalq_u16(total.v[v], vpaddlq_u8(vcntq_u8(vreinterpretq_u8_u32(vld1q_u32(mask + 4 * v)))));
  }
  return total;
}

template <int kPixels>
MBU_INLINE void finish_sums(const Conv2dTile& t, int64_t first, int64_t channel, const Counts* counts) {
  const int64_t left = t.channels - channel;
#pragma GCC unroll 4
  for (int p = 0; p < kPixels; ++p) {
    const int32_t* nnz = t.table + t.border[first + p] + channel;
    float* sums = t.sums + t.target[first + p] + channel;
    float32x4_t sum[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const int32x4_t twice = vreinterpretq_s32_u32(vshlq_n_u32(counts[p].v[v], 1));
      sum[v] = vcvtq_f32_s32(vsubq_s32(vld1q_s32(nnz + 4 * v), twice));
    }
    if (left >= kHalfChannels) {
      for (int v = 0; v < kVectors; ++v) vst1q_f32(sums + 4 * v, sum[v]);
    } else {
      std::memcpy(sums, sum, static_cast<size_t>(left) * sizeof(float));
    }
  }
}

// 16 bytes, byte c with bit c % 8 set where count c is within its limit.
MBU_INLINE uint8x16_t within(const Counts& counts, const int32_t* limit) {
  uint32x4_t m[kVectors];
  for (int v = 0; v < kVectors; ++v)
    m[v] = vcleq_s32(vreinterpretq_s32_u32(counts.v[v]), vld1q_s32(limit + 4 * v));
  const uint16x8_t low = vuzp1q_u16(vreinterpretq_u16_u32(m[0]), vreinterpretq_u16_u32(m[1]));
  const uint16x8_t high = vuzp1q_u16(vreinterpretq_u16_u32(m[2]), vreinterpretq_u16_u32(m[3]));
  const uint8x16_t all = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
  return vandq_u8(all, vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201)));
}

// `whole`: the other half of the word has no channels, so the word is written with zeros there.
template <int kPixels>
MBU_INLINE void finish_bits(const Conv2dTile& t, int64_t first, int64_t channel, bool whole,
                            const Counts* counts) {
  const int64_t tile = channel / kTileChannels, shift = channel % kTileChannels;
  for (int64_t plane = 0; plane < t.planes; ++plane) {
    const int64_t word = plane * t.out_words + tile;
    const int32_t* limits = t.table + plane * t.channels_padded + channel;
    const Word flip = t.flip[word] >> shift;
    uint8x16_t b[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      const int q = p < kPixels ? p : 0;
      b[p] = within(counts[q], limits + t.border[first + q]);
    }
    // Three pairwise additions bring the 8 bits of a byte together: 16 bits per pixel, side by side.
    uint8x16_t sum = vpaddq_u8(vpaddq_u8(b[0], b[1]), vpaddq_u8(b[2], b[3]));
    sum = vpaddq_u8(sum, sum);
    uint16_t bits[8];
    vst1q_u16(bits, vreinterpretq_u16_u8(sum));
    for (int p = 0; p < kPixels; ++p) {
      Word* out = t.bits + t.target[first + p] + word;
      const Word value = bits[p] ^ flip;
      if (whole)
        *out = value;
      else
        std::memcpy(reinterpret_cast<char*>(out) + shift / 8, &value, sizeof(uint16_t));
    }
  }
}

template <class Logic, int kPixels>
MBU_INLINE void run_pixels(const Conv2dTile& t, int64_t first, int64_t channel, bool whole,
                           const Counts& nonzero) {
  const Word* weight = t.weight + channel / kTileChannels * t.weight_stride + channel % kTileChannels;
  Counts counts[kPixels];
  count_pixels<Logic, kPixels>(t, first, weight, counts);
  if constexpr (Logic::kMatches) {
    for (int p = 0; p < kPixels; ++p)
      for (int v = 0; v < kVectors; ++v) counts[p].v[v] = vsubq_u32(nonzero.v[v], counts[p].v[v]);
  }
  if (t.sums)
    finish_sums<kPixels>(t, first, channel, counts);
  else
    finish_bits<kPixels>(t, first, channel, whole, counts);
}

// Logic::count(a, sign, mask, bytes): adds the bits set per byte to `bytes`, for 4 registers of channels: one
// bit per mismatch, or per match where Logic::kMatches.
template <class Logic>
inline void conv2d_neon(const Conv2dTile& t) {
  const int64_t end = std::min(t.channels, t.tile_end * kTileChannels);
  for (int64_t channel = t.tile_begin * kTileChannels; channel < end; channel += kHalfChannels) {
    const bool whole = channel % kTileChannels == 0 && channel + kHalfChannels >= t.channels;
    Counts nonzero{};
    if constexpr (Logic::kMatches) {
      const Word* weight = t.weight + channel / kTileChannels * t.weight_stride + channel % kTileChannels;
      nonzero = count_nonzero(t, weight);
    }
    int64_t i = 0;
    for (; i + 4 <= t.pixels; i += 4) run_pixels<Logic, 4>(t, i, channel, whole, nonzero);
    if (i + 2 <= t.pixels) {
      run_pixels<Logic, 2>(t, i, channel, whole, nonzero);
      i += 2;
    }
    if (i < t.pixels) run_pixels<Logic, 1>(t, i, channel, whole, nonzero);
  }
}

}  // namespace
}  // namespace mbu
