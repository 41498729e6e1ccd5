// The epilogue of codebook.h: counts with pixels across lanes to output words, or to sums with channels
// across lanes. A class V brings the registers, as there.
#pragma once
#include <immintrin.h>

#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/unroll.h"

namespace mbu {
namespace {

constexpr int64_t kMaxCount = 0x7fff;  // counts are compared as signed 16-bit numbers

// Counts of a channel in a block. Lane h of [register][0]: pixels 16h + 0, 2, .. 14; of [register][1]: + 1,
// 3, ..
template <class V, int kRegs>
using Counts = uint16_t[kRegs][2][V::kLanes / 2];

// Bit c of a pixel's word in `above`: whether its count of channel c is above `limit[c]`.
template <class V, int kRegs>
struct Above {
  alignas(64) Word words[kRegs][2][2][V::kLanes / 16][4];  // [register][even, odd][lower, upper 4][lane]

  MBU_INLINE void compare(const Counts<V, kRegs>* counts, const int32_t* limit) {
    for (int r = 0; r < kRegs; ++r) {
      typename V::Reg bytes[4];
      for (int j = 0; j < 4; ++j) {
        bytes[j] = V::zero();
        for (int c = 8 * j + 7; c >= 8 * j; --c) {  // highest channel first, each doubling moves it up a bit
          const auto most = V::splat16(static_cast<int16_t>(std::clamp<int64_t>(limit[c], -1, kMaxCount)));
          const auto even = V::above16(V::load(counts[c][r][0]), most);
          const auto odd = V::above16(V::load(counts[c][r][1]), most);
          bytes[j] = V::sub8(V::add8(bytes[j], bytes[j]), V::pack16(even, odd));
        }
      }
      const auto a = V::unpack_low8(bytes[0], bytes[1]), b = V::unpack_low8(bytes[2], bytes[3]);
      const auto c = V::unpack_high8(bytes[0], bytes[1]), d = V::unpack_high8(bytes[2], bytes[3]);
      V::store(words[r][0][0], V::unpack_low16(a, b));
      V::store(words[r][0][1], V::unpack_high16(a, b));
      V::store(words[r][1][0], V::unpack_low16(c, d));
      V::store(words[r][1][1], V::unpack_high16(c, d));
    }
  }
  MBU_INLINE Word of(int64_t p) const {
    const int64_t i = p % 16 / 2;
    return words[p / V::kLanes][p % 2][i / 4][p % V::kLanes / 16][i % 4];
  }
};

// The same for a single pixel.
template <class V, int kRegs>
inline Word above_of(const Counts<V, kRegs>* counts, const int32_t* limit, int64_t p) {
  Word bits = 0;
  for (int64_t c = 0; c < kTileChannels; ++c)
    bits |= static_cast<Word>(counts[c][p / V::kLanes][p % 2][p % V::kLanes / 16 * 8 + p % 16 / 2] > limit[c])
            << c;
  return bits;
}

// The border classes of a block's pixels that have enough of them to be compared all at once.
struct Borders {
  static constexpr int kMost = 8, kFew = 4;  // four single pixels take about as long as a whole block
  int count = 0;
  int32_t border[kMost];
  int64_t singles;  // pixels of other classes

  Borders(const int32_t* of, int64_t pixels) {
    int64_t members[kMost];
    int found = 0;
    for (int64_t p = 0; p < pixels;) {
      const int64_t start = p;
      while (p < pixels && of[p] == of[start]) ++p;
      int i = 0;
      while (i < found && border[i] != of[start]) ++i;
      if (i == kMost) continue;
      if (i == found) border[found] = of[start], members[found++] = 0;
      members[i] += p - start;
    }
    singles = pixels;
    for (int i = 0; i < found; ++i) {
      if (members[i] <= kFew) continue;
      singles -= members[i];
      border[count++] = border[i];
    }
  }
  bool has(int32_t of) const { return std::find(border, border + count, of) != border + count; }
};

template <class V, int kRegs>
void finish_bits(const Conv2dTile& t, int64_t first, int64_t pixels, int64_t tile,
                 const Counts<V, kRegs>* counts) {
  const int32_t* border = t.border + first;
  const int64_t* target = t.target + first;
  const Borders usual(border, pixels);
  int64_t word = tile;
  const int32_t* limits = t.table + tile * kTileChannels;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limits += t.channels_padded) {
    const Word invert = ~t.flip[word];
    Word* out = t.bits + word;
    for (int i = 0; i < usual.count; ++i) {
      Above<V, kRegs> above;
      above.compare(counts, limits + usual.border[i]);
      for (int64_t p = 0; p < pixels; ++p)
        if (border[p] == usual.border[i]) out[target[p]] = above.of(p) ^ invert;
    }
    for (int64_t p = 0; usual.singles && p < pixels; ++p)
      if (!usual.has(border[p])) out[target[p]] = above_of<V, kRegs>(counts, limits + border[p], p) ^ invert;
  }
}

// 8 channels of 8 pixels: lanes of x[channel] are pixels, afterwards lanes of x[pixel] are channels.
MBU_INLINE void transpose_counts(__m128i* x) {
  for (int stage = 0; stage < 3; ++stage) {
    __m128i y[8];
    for (int i = 0; i < 4; ++i) {
      y[2 * i] = _mm_unpacklo_epi16(x[i], x[i + 4]);
      y[2 * i + 1] = _mm_unpackhi_epi16(x[i], x[i + 4]);
    }
    for (int i = 0; i < 8; ++i) x[i] = y[i];
  }
}

template <class V, int kRegs>
void finish_sums(const Conv2dTile& t, int64_t first, int64_t pixels, int64_t tile,
                 const Counts<V, kRegs>* counts) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int64_t group = 0; group < (pixels + 15) / 16 * 16; group += 8) {
    // Eight pixels whose counts lie side by side: every second one of sixteen.
    const int64_t r = group / V::kLanes, sixteen = group % V::kLanes / 16, odd = group % 16 / 8;
    for (int64_t c = 0; c < kTileChannels; c += 8) {
      const int64_t channel = tile * kTileChannels + c, left = t.channels - channel;
      if (left <= 0) break;
      const __m256i valid =
          _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(std::min<int64_t>(left, 8))), lane);
      __m128i x[8];
      for (int i = 0; i < 8; ++i)
        x[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(counts[c + i][r][odd] + sixteen * 8));
      transpose_counts(x);
      for (int i = 0; i < 8; ++i) {
        const int64_t p = r * V::kLanes + sixteen * 16 + 2 * i + odd;
        if (p >= pixels) break;
        const auto* nnz = reinterpret_cast<const __m256i*>(t.table + t.border[first + p] + channel);
        const __m256i sum =
            _mm256_sub_epi32(_mm256_loadu_si256(nnz), _mm256_slli_epi32(_mm256_cvtepu16_epi32(x[i]), 1));
        float* out = t.sums + t.target[first + p] + channel;
        if (left >= 8)
          _mm256_storeu_ps(out, _mm256_cvtepi32_ps(sum));
        else  // many cycles on some processors
          _mm256_maskstore_ps(out, valid, _mm256_cvtepi32_ps(sum));
      }
    }
  }
}

}  // namespace
}  // namespace mbu
