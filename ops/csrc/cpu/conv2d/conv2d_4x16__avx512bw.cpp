// conv2d for AVX-512 without a popcount instruction: 4 pixels x 16 channels, one counter per 32-bit lane.
//
// Counting bits by table costs 7 operations a register, adding registers bit by bit costs 2: a full adder of
// three bit planes is two vpternlogd (sum 0x96, carry 0xe8). So 8 words are first added up, bit by bit
// (Harley and Seal), and only the carry that stands for eights is counted:
//
//   8 words: 8 x (a ^ sign) & mask, 7 full adders, 1 count = 8 + 14 + 7 operations for 4096 products
//
// on two ports: 282 multiply-adds per cycle, against 158 when every word is counted. The sums of ones, twos
// and fours stay in registers and are counted once per pixel. VNNI would replace single operations at the
// end only, and int8 products of its own are bounded by 128 per cycle.
#include <immintrin.h>

#include "cpu/kernels.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

#define MBU_INLINE inline __attribute__((always_inline))

constexpr int kGroup = 16;     // channels of a register
constexpr int kPixels = 4;     // 5 registers each, beside 8 of weights
constexpr int64_t kRoom = 30;  // groups of 8 words whose eights, 8 per byte at most, fit a byte; one is spare

MBU_INLINE __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}

// An input word of a pixel and the weights that it meets.
struct Step {
  int64_t source;  // words from the pixel's source
  int64_t weight;  // words from the tile's start
};

// Bits per byte of x, times kWeight.
template <int kWeight>
MBU_INLINE __m512i count_bits(__m512i x) {
  constexpr int w = kWeight;
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, w, w, 2 * w, w, 2 * w, 2 * w, 3 * w, w, 2 * w,
                                                             2 * w, 3 * w, 2 * w, 3 * w, 3 * w, 4 * w));
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i low = _mm512_and_si512(x, nibble);
  const __m512i high = _mm512_and_si512(_mm512_srli_epi32(x, 4), nibble);
  return _mm512_add_epi8(_mm512_shuffle_epi8(table, low), _mm512_shuffle_epi8(table, high));
}

// sum becomes the sum bit of sum + a + b; returns the carry.
MBU_INLINE __m512i full_add(__m512i& sum, __m512i a, __m512i b) {
  const __m512i carry = _mm512_ternarylogic_epi32(sum, a, b, 0xe8);
  sum = _mm512_ternarylogic_epi32(sum, a, b, 0x96);
  return carry;
}

MBU_INLINE __m512i half_add(__m512i& sum, __m512i a) {
  const __m512i carry = _mm512_and_si512(sum, a);
  sum = _mm512_xor_si512(sum, a);
  return carry;
}

struct Pixel {
  const Word* input;
  __m512i ones, twos, fours, bytes;
};

// Adds kSteps words to ones and twos; fours[p] is what they carry.
template <int kSteps, int kCount>
MBU_INLINE void add_words(const Step* step, const Word* weight, Pixel* pixel, __m512i* fours) {
  __m512i sign[4], mask[4];
#pragma GCC unroll 4
  for (int i = 0; i < kSteps; ++i) {
    sign[i] = load(weight + step[i].weight);
    mask[i] = load(weight + step[i].weight + kTileChannels);
  }
#pragma GCC unroll 4
  for (int p = 0; p < kCount; ++p) {
    auto mismatches = [&](int i) {
      const __m512i a = _mm512_set1_epi32(static_cast<int>(pixel[p].input[step[i].source]));
      return _mm512_ternarylogic_epi32(a, sign[i], mask[i], 0x28);  // (a ^ sign) & mask
    };
    Pixel& x = pixel[p];
    if constexpr (kSteps == 1) {
      fours[p] = half_add(x.twos, half_add(x.ones, mismatches(0)));
    } else {
      const __m512i twos = full_add(x.ones, mismatches(0), mismatches(1));
      if constexpr (kSteps == 2) fours[p] = half_add(x.twos, twos);
      if constexpr (kSteps == 3) fours[p] = full_add(x.twos, twos, half_add(x.ones, mismatches(2)));
      if constexpr (kSteps == 4)
        fours[p] = full_add(x.twos, twos, full_add(x.ones, mismatches(2), mismatches(3)));
    }
  }
}

template <int kCount>
MBU_INLINE void finish_sums(const Conv2dTile& t, int64_t first, int64_t channel, const __m512i* count) {
  const int64_t left = t.channels - channel;
  if (left <= 0) return;
  const auto valid = static_cast<__mmask16>(left >= kGroup ? 0xffff : (1 << left) - 1);
#pragma GCC unroll 4
  for (int p = 0; p < kCount; ++p) {
    const __m512i nnz = load(t.table + t.border[first + p] + channel);
    const __m512i sum = _mm512_sub_epi32(nnz, _mm512_slli_epi32(count[p], 1));
    _mm512_mask_storeu_ps(t.sums + t.target[first + p] + channel, valid, _mm512_cvtepi32_ps(sum));
  }
}

template <int kCount>
MBU_INLINE void finish_bits(const Conv2dTile& t, int64_t first, int64_t channel, const __m512i* count) {
  const int64_t half = channel % kTileChannels / kGroup;  // of the output word
  int64_t word = channel / kTileChannels;
  const int32_t* limits = t.table + channel;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limits += t.channels_padded) {
    const auto flip = static_cast<uint16_t>(t.flip[word] >> (half * kGroup));
#pragma GCC unroll 4
    for (int p = 0; p < kCount; ++p) {
      const __mmask16 bits = _mm512_cmple_epi32_mask(count[p], load(limits + t.border[first + p]));
      auto* out = reinterpret_cast<uint16_t*>(t.bits + t.target[first + p] + word) + half;
      *out = static_cast<uint16_t>(bits ^ flip);
    }
  }
}

template <int kCount, bool kSums>
void run_pixels(const Conv2dTile& t, const Step* step, int64_t steps, int64_t first, int64_t channel) {
  const __m512i zero = _mm512_setzero_si512();
  Pixel pixel[kCount];
  __m512i eights[kCount], fours[kCount], more[kCount];  // eights: 32-bit lanes, the bytes counted so far
#pragma GCC unroll 4
  for (int p = 0; p < kCount; ++p) {
    pixel[p] = {t.input + t.source[first + p], zero, zero, zero, zero};
    eights[p] = zero;
  }
  const __m512i one16 = _mm512_set1_epi16(1);
  auto count_eights = [&] {
#pragma GCC unroll 4
    for (int p = 0; p < kCount; ++p) {
      const __m512i carry = full_add(pixel[p].fours, fours[p], more[p]);
      pixel[p].bytes = _mm512_add_epi8(pixel[p].bytes, count_bits<1>(carry));
    }
  };
  const Word* weight = t.weight + channel / kTileChannels * t.weight_stride + channel % kTileChannels;
  int64_t room = kRoom;
  const Step* end = step + steps / 8 * 8;
  for (; step != end; step += 8) {
    add_words<4, kCount>(step, weight, pixel, fours);
    add_words<4, kCount>(step + 4, weight, pixel, more);
    count_eights();
    if (--room == 0) {
      room = kRoom;
      for (int p = 0; p < kCount; ++p) {
        const __m512i pairs = _mm512_maddubs_epi16(pixel[p].bytes, _mm512_set1_epi8(8));
        eights[p] = _mm512_add_epi32(eights[p], _mm512_madd_epi16(pairs, one16));
        pixel[p].bytes = zero;
      }
    }
  }
  steps %= 8;
  if (steps) {
    for (int p = 0; p < kCount; ++p) fours[p] = more[p] = zero;
    if (steps >= 4) add_words<4, kCount>(step, weight, pixel, fours);
    step += steps / 4 * 4;
    if (steps % 4 == 1) add_words<1, kCount>(step, weight, pixel, more);
    if (steps % 4 == 2) add_words<2, kCount>(step, weight, pixel, more);
    if (steps % 4 == 3) add_words<3, kCount>(step, weight, pixel, more);
    count_eights();
  }
  __m512i count[kCount];
#pragma GCC unroll 4
  for (int p = 0; p < kCount; ++p) {
    const Pixel& x = pixel[p];
    const __m512i rest = _mm512_add_epi8(_mm512_add_epi8(count_bits<1>(x.ones), count_bits<2>(x.twos)),
                                         count_bits<4>(x.fours));
    const __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16(x.bytes, _mm512_set1_epi8(8)),
                                           _mm512_maddubs_epi16(rest, _mm512_set1_epi8(1)));
    count[p] = _mm512_add_epi32(eights[p], _mm512_madd_epi16(pairs, one16));
  }
  if constexpr (kSums)
    finish_sums<kCount>(t, first, channel, count);
  else
    finish_bits<kCount>(t, first, channel, count);
}

template <bool kSums>
void run(const Conv2dTile& t) {
  static thread_local Scratch memory;
  int64_t steps = 0;
  for (int64_t i = 0; i < t.runs; ++i) steps += t.run[i].count;
  Step* step = memory.get<Step>(steps);
  for (int64_t i = 0; i < t.runs; ++i)
    for (int64_t k = 0; k < t.run[i].count; ++k)
      *step++ = {t.run[i].source + k, t.run[i].weight + k * 2 * kTileChannels};
  step -= steps;

  for (int64_t channel = t.tile_begin * kTileChannels; channel < t.tile_end * kTileChannels;
       channel += kGroup) {
    int64_t i = 0;
    for (; i + kPixels <= t.pixels; i += kPixels) run_pixels<kPixels, kSums>(t, step, steps, i, channel);
    for (; i < t.pixels; ++i) run_pixels<1, kSums>(t, step, steps, i, channel);
  }
}

}  // namespace

void conv2d_4x16__avx512bw(const Conv2dTile& t) {
  if (t.sums)
    run<true>(t);
  else
    run<false>(t);
}

}  // namespace mbu
