// conv2d by codebook, pixels across the bytes of a register. One file per instruction set includes this and
// brings the registers: a class V, see conv2d_64x32__avx2.cpp.
//
// Four input channels are a nibble of the activations: one of 16 values. Against four masked binary weights,
// one of 81 combinations, the number of mismatches is a table of 16 bytes; all tables together are the
// codebook, and the weights say which table comes next. vpshufb looks up every byte of a register at once:
//
//   count[pixels] += codebook[weights of 4 channels][nibbles of the pixels]
//
// Two operations per 4 products and byte, where counting bits takes eight per 8. A pass of its own brings the
// bits of a block of pixels into nibbles first, once for all output channels. Counts are bytes, 4 at most per
// nibble, and are widened to 16 bits every 7 words.
//
// In an unnamed namespace, because the copies must not be merged by the linker.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "cpu/conv2d/codebook_finish.h"
#include "cpu/kernels.h"
#include "cpu/unroll.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

constexpr int kNibbles = 8;  // of a word
constexpr int kGroup = 4;    // channels whose counters are in registers at a time
constexpr int kGroups = kTileChannels / kGroup;
constexpr int64_t kChunk = 7;  // words: 7 * 8 nibbles * 4 = 224 fits a byte

// codebook[sign | mask << 4][a]: mismatches of four channels. Where sign is no subset of mask, unused.
using Codebook = std::array<uint8_t, 256 * 16>;
constexpr Codebook make_codebook() {
  Codebook book{};
  for (unsigned i = 0; i < 256; ++i)
    for (unsigned a = 0; a < 16; ++a)
      book[i * 16 + a] = static_cast<uint8_t>(std::popcount((a ^ i) & (i >> 4)));
  return book;
}
alignas(64) constexpr Codebook kCodebook = make_codebook();

// Every step within the 128-bit lanes of a register is the same for all lanes: lane h holds pixels 16h ..
// +15.

// Four registers of four words per lane: word j of register i to word i of register j.
template <class V>
MBU_INLINE void transpose_words(typename V::Reg* x) {
  const auto a = V::unpack_low32(x[0], x[1]), b = V::unpack_low32(x[2], x[3]);
  const auto c = V::unpack_high32(x[0], x[1]), d = V::unpack_high32(x[2], x[3]);
  x[0] = V::unpack_low64(a, b);
  x[1] = V::unpack_high64(a, b);
  x[2] = V::unpack_low64(c, d);
  x[3] = V::unpack_high64(c, d);
}

// Words of a register full of pixels, the four in lane h of x[i] being pixels 16h + 4i .. +3, to their
// nibbles: 8 registers, `step` bytes apart.
template <class V>
MBU_INLINE void store_nibbles(typename V::Reg* x, uint8_t* nibbles, int64_t step) {
  const auto by_byte = V::every_lane(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const auto low = V::every_lane(_mm_set1_epi8(15));
  each<4>([&](int i) MBU_LAMBDA { x[i] = V::shuffle(x[i], by_byte); });
  transpose_words<V>(x);
  each<4>([&](int i) MBU_LAMBDA {
    V::store(nibbles + 2 * i * step, V::bit_and(x[i], low));
    V::store(nibbles + (2 * i + 1) * step, V::bit_and(V::template shift_right16<4>(x[i]), low));
  });
}

// The nibbles [steps][8][kRegs * V::kLanes] of a block of pixels; past the last pixel, that one again.
template <class V, int kRegs>
void split_block(const Conv2dTile& t, int64_t first, uint8_t* nibbles) {
  constexpr int64_t kStep = kRegs * V::kLanes;
  const Word* pixel[kStep];
  for (int64_t p = 0; p < kStep; ++p) pixel[p] = t.input + t.source[std::min(first + p, t.pixels - 1)];
  for (int64_t i = 0; i < t.runs; ++i) {
    const int64_t end = t.run[i].source + t.run[i].count;
    int64_t k = t.run[i].source;
    for (; k + 4 <= end; k += 4, nibbles += 4 * kNibbles * kStep) {
      for (int r = 0; r < kRegs; ++r) {
        typename V::Reg x[4][4];  // [word][register]
        each<4>([&](int q) MBU_LAMBDA {
          typename V::Reg w[4];
          each<4>([&](int j) MBU_LAMBDA { w[j] = V::load_lanes(pixel + r * V::kLanes + 4 * q + j, k); });
          transpose_words<V>(w);
          each<4>([&](int j) MBU_LAMBDA { x[j][q] = w[j]; });
        });
        each<4>([&](int j) MBU_LAMBDA {
          store_nibbles<V>(x[j], nibbles + j * kNibbles * kStep + r * V::kLanes, kStep);
        });
      }
    }
    for (; k < end; ++k, nibbles += kNibbles * kStep) {
      for (int r = 0; r < kRegs; ++r) {
        typename V::Reg x[4];
        each<4>([&](int q) MBU_LAMBDA { x[q] = V::load_words(pixel + r * V::kLanes + 4 * q, k); });
        store_nibbles<V>(x, nibbles + r * V::kLanes, kStep);
      }
    }
  }
}

// A tile's weights as offsets into the codebook: [groups][steps][8 nibbles][4 channels].
inline void look_up_weight(const Conv2dTile& t, int64_t tile, int64_t steps, uint16_t* offsets) {
  const __m128i by_byte = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m128i low = _mm_set1_epi8(15);
  auto load = [](const Word* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); };
  auto store = [](uint16_t* p, __m128i bytes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 4));
  };
  for (int64_t i = 0; i < t.runs; ++i) {
    const Word* w = t.weight + tile * t.weight_stride + t.run[i].weight;
    for (int64_t k = 0; k < t.run[i].count; ++k, w += 2 * kTileChannels, offsets += kNibbles * kGroup) {
      for (int g = 0; g < kGroups; ++g) {
        const __m128i sign = load(w + g * kGroup), mask = load(w + kTileChannels + g * kGroup);
        const __m128i even =
            _mm_or_si128(_mm_and_si128(sign, low), _mm_slli_epi16(_mm_and_si128(mask, low), 4));
        const __m128i odd =
            _mm_or_si128(_mm_and_si128(_mm_srli_epi16(sign, 4), low), _mm_andnot_si128(low, mask));
        const __m128i a = _mm_shuffle_epi8(even, by_byte), b = _mm_shuffle_epi8(odd, by_byte);
        uint16_t* out = offsets + g * steps * kNibbles * kGroup;
        store(out, _mm_unpacklo_epi32(a, b));
        store(out + 16, _mm_unpackhi_epi32(a, b));
      }
    }
  }
}

// Adds the mismatches of `steps` words to the counts of four channels.
template <class V, int kRegs>
MBU_INLINE void count_words(const uint8_t* nibbles, const uint16_t* offsets, int64_t steps, bool start,
                            Counts<V, kRegs>* counts) {
  typename V::Reg bytes[kGroup][kRegs];
  each<kGroup>([&](int c) MBU_LAMBDA { each<kRegs>([&](int r) MBU_LAMBDA { bytes[c][r] = V::zero(); }); });
  // A whole word per iteration: few enough iterations that the branch at their end is predicted.
  for (; steps; --steps, offsets += kNibbles * kGroup, nibbles += kNibbles * kRegs * V::kLanes) {
    each<kNibbles>([&](int n) MBU_LAMBDA {
      typename V::Reg a[kRegs];
      each<kRegs>([&](int r) MBU_LAMBDA { a[r] = V::load(nibbles + (n * kRegs + r) * V::kLanes); });
      each<kGroup>([&](int c) MBU_LAMBDA {
        V::template add_counts<kRegs>(kCodebook.data() + offsets[n * kGroup + c], a, bytes[c]);
      });
    });
  }
  const auto low = V::splat16(0xff);
  each<kGroup>([&](int c) MBU_LAMBDA {
    each<kRegs>([&](int r) MBU_LAMBDA {
      auto even = V::bit_and(bytes[c][r], low), odd = V::template shift_right16<8>(bytes[c][r]);
      if (!start) {
        even = V::add16(even, V::load(counts[c][r][0]));
        odd = V::add16(odd, V::load(counts[c][r][1]));
      }
      V::store(counts[c][r][0], even);
      V::store(counts[c][r][1], odd);
    });
  });
}

template <class V, int kRegs>
void run_block(const Conv2dTile& t, int64_t first, int64_t tile, int64_t steps, const uint8_t* nibbles,
               const uint16_t* offsets) {
  alignas(64) Counts<V, kRegs> counts[kTileChannels];
  const int64_t chunks = (steps + kChunk - 1) / kChunk, chunk = (steps + chunks - 1) / chunks;
  for (int64_t k = 0; k < steps; k += chunk) {
    for (int g = 0; g < kGroups; ++g)
      count_words<V, kRegs>(nibbles + k * kNibbles * kRegs * V::kLanes,
                            offsets + (g * steps + k) * kNibbles * kGroup, std::min(chunk, steps - k), k == 0,
                            counts + g * kGroup);
  }
  const int64_t pixels = std::min<int64_t>(t.pixels - first, kRegs * V::kLanes);
  if (t.sums)
    finish_sums<V, kRegs>(t, first, pixels, tile, counts);
  else
    finish_bits<V, kRegs>(t, first, pixels, tile, counts);
}

inline int64_t count_steps(const Conv2dTile& t) {
  int64_t steps = 0;
  for (int64_t i = 0; i < t.runs; ++i) steps += t.run[i].count;
  return steps;
}

// Blocks of two registers of pixels, then one; V::rest(t) gets pixels that are too few to fill one and sums
// that are too long for 16 bits.
template <class V>
void run_codebook(const Conv2dTile& t) {
  static thread_local Scratch nibble_memory, offset_memory;
  constexpr int64_t kBlock = 2 * V::kLanes;
  const int64_t steps = count_steps(t);
  if (t.pixels <= V::kFewPixels || steps == 0 || steps * kWordBits > kMaxCount) return V::rest(t);

  auto* nibbles = nibble_memory.get<uint8_t>((t.pixels + kBlock - 1) / kBlock * kBlock * steps * kNibbles);
  auto* offsets = offset_memory.get<uint16_t>(steps * kNibbles * kTileChannels);
  const int64_t end2 = (t.pixels + kBlock - 1 - V::kLanes - V::kFewPixels) / kBlock * kBlock;
  const int64_t end1 = t.pixels - end2 > V::kFewPixels ? end2 + V::kLanes : end2;
  auto block = [&](int64_t first) { return nibbles + first * steps * kNibbles; };
  for (int64_t i = 0; i < end2; i += kBlock) split_block<V, 2>(t, i, block(i));
  if (end1 > end2) split_block<V, 1>(t, end2, block(end2));
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    look_up_weight(t, tile, steps, offsets);
    for (int64_t i = 0; i < end2; i += kBlock) run_block<V, 2>(t, i, tile, steps, block(i), offsets);
    if (end1 > end2) run_block<V, 1>(t, end2, tile, steps, block(end2), offsets);
  }
  if (end1 >= t.pixels) return;
  Conv2dTile rest = t;
  rest.pixels -= end1;
  rest.source += end1;
  rest.target += end1;
  rest.border += end1;
  V::rest(rest);
}

}  // namespace
}  // namespace mbu
