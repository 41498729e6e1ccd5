// conv2d by popcount with AVX2: 8 pixels x 8 channels, a counter per channel in each 32-bit lane.
//
// Bits are counted by table, 4 at a time: vpshufb looks up 32 nibbles at once. The mask is split into its low
// and high nibbles once per weight word, so that masking and isolating a nibble are one operation:
//
//   x = a ^ sign;  count += table[x & low_mask];  count += table[(x >> 4) & high_mask]
//
// 8 operations per 256 products; three ports give 96 multiply-adds per cycle. The counters are bytes (8 at
// most per word), which hold 31 words; then they are added up into 32-bit lanes.
#include <immintrin.h>

#include "cpu/kernels.h"

namespace mbu {
namespace {

#define MBU_INLINE inline __attribute__((always_inline))

constexpr int kGroup = 8;              // channels of a register
constexpr int64_t kWordsPerByte = 31;  // 31 * 8 = 248 fits a byte

MBU_INLINE __m256i load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

template <int kPixels>
MBU_INLINE void finish_sums(const Conv2dTile& t, int64_t first, int64_t channel, const __m256i* count) {
  const int64_t left = t.channels - channel;
  if (left <= 0) return;
  const __m256i valid = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(left < kGroup ? left : kGroup)),
                                           _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) {
    const __m256i nnz = load(t.table + t.border[first + p] + channel);
    const __m256i sum = _mm256_sub_epi32(nnz, _mm256_slli_epi32(count[p], 1));
    float* out = t.sums + t.target[first + p] + channel;
    if (left >= kGroup)
      _mm256_storeu_ps(out, _mm256_cvtepi32_ps(sum));
    else  // many cycles on some processors
      _mm256_maskstore_ps(out, valid, _mm256_cvtepi32_ps(sum));
  }
}

template <int kPixels>
MBU_INLINE void finish_bits(const Conv2dTile& t, int64_t first, int64_t channel, const __m256i* count) {
  const int64_t group = channel % kTileChannels / kGroup;  // a byte of the output word
  int64_t word = channel / kTileChannels;
  const int32_t* limits = t.table + channel;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limits += t.channels_padded) {
    const unsigned invert = ~(t.flip[word] >> (group * kGroup));  // the compare below says "too many"
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) {
      const __m256i above = _mm256_cmpgt_epi32(count[p], load(limits + t.border[first + p]));
      const auto bits = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(above)));
      reinterpret_cast<uint8_t*>(t.bits + t.target[first + p] + word)[group] =
          static_cast<uint8_t>(bits ^ invert);
    }
  }
}

template <int kPixels, bool kSums>
MBU_INLINE void run_pixels(const Conv2dTile& t, int64_t first, int64_t channel) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i count[kPixels], bytes[kPixels];
  int64_t offset[kPixels];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) {
    count[p] = bytes[p] = _mm256_setzero_si256();
    offset[p] = t.source[first + p] - t.source[first];
  }
  auto widen = [&] {
    const __m256i one8 = _mm256_set1_epi8(1), one16 = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) {
      const __m256i sum = _mm256_madd_epi16(_mm256_maddubs_epi16(bytes[p], one8), one16);
      count[p] = _mm256_add_epi32(count[p], sum);
      bytes[p] = _mm256_setzero_si256();
    }
  };
  const Word* input = t.input + t.source[first];
  const Word* weight = t.weight + channel / kTileChannels * t.weight_stride + channel % kTileChannels;
  int64_t room = kWordsPerByte;
  for (const Conv2dRun *run = t.run, *last = run + t.runs; run != last; ++run) {
    const Word *word = input + run->source, *end = word + run->count, *w = weight + run->weight;
    while (word != end) {
      const Word* stop = end - word < room ? end : word + room;
      room -= stop - word;
      for (; word != stop; ++word, w += 2 * kTileChannels) {
        const __m256i sign = load(w), mask = load(w + kTileChannels);
        const __m256i low_mask = _mm256_and_si256(mask, nibble);
        const __m256i high_mask = _mm256_and_si256(_mm256_srli_epi32(mask, 4), nibble);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) {
          const __m256i x = _mm256_xor_si256(_mm256_set1_epi32(static_cast<int>(word[offset[p]])), sign);
          const __m256i low = _mm256_and_si256(x, low_mask);
          const __m256i high = _mm256_and_si256(_mm256_srli_epi32(x, 4), high_mask);
          bytes[p] = _mm256_add_epi8(bytes[p], _mm256_shuffle_epi8(table, low));
          bytes[p] = _mm256_add_epi8(bytes[p], _mm256_shuffle_epi8(table, high));
        }
      }
      if (room == 0) {
        widen();
        room = kWordsPerByte;
      }
    }
  }
  widen();
  if constexpr (kSums)
    finish_sums<kPixels>(t, first, channel, count);
  else
    finish_bits<kPixels>(t, first, channel, count);
}

template <bool kSums>
void run(const Conv2dTile& t) {
  for (int64_t channel = t.tile_begin * kTileChannels; channel < t.tile_end * kTileChannels;
       channel += kGroup) {
    int64_t i = 0;
    for (; i + 8 <= t.pixels; i += 8) run_pixels<8, kSums>(t, i, channel);
    for (; i + 4 <= t.pixels; i += 4) run_pixels<4, kSums>(t, i, channel);
    for (; i < t.pixels; ++i) run_pixels<1, kSums>(t, i, channel);
  }
}

}  // namespace

void conv2d_8x8__avx2(const Conv2dTile& t) {
  if (t.sums)
    run<true>(t);
  else
    run<false>(t);
}

}  // namespace mbu
