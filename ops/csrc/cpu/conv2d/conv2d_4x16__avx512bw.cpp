// conv2d for AVX-512 without a popcount instruction: 4 pixels x 16 channels, one counter per 32-bit lane.
//
// Counting bits by table costs 7 operations a register, adding registers bit by bit costs 2: a full adder of
// three bit planes is two vpternlogd (0x96, 0xd4). So 8 words are first added up, bit by bit
// (Harley and Seal), and only the carry that stands for eights is counted:
//
//   8 words: 8 x (a ^ sign) & mask, 7 full adders, 1 count = 8 + 14 + 7 operations for 4096 products
//
// on two ports: 282 multiply-adds per cycle, against 158 when every word is counted. The sums of ones, twos
// and fours stay in registers and are counted once per pixel. VNNI would replace single operations at the
// end only, and int8 products of its own are bounded by 128 per cycle.
#include <immintrin.h>

#include "cpu/kernels.h"
#include "cpu/unroll.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

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

// sum becomes the sum bit of sum + a + b; returns the carry: a where a == b, else not the new sum. Computed
// from the new sum, because the three old values would need a copy: vpternlogd overwrites an operand.
MBU_INLINE __m512i full_add(__m512i& sum, __m512i a, __m512i b) {
  sum = _mm512_ternarylogic_epi32(sum, a, b, 0x96);
  return _mm512_ternarylogic_epi32(a, b, sum, 0xd4);
}

MBU_INLINE __m512i half_add(__m512i& sum, __m512i a) {
  const __m512i carry = _mm512_and_si512(sum, a);
  sum = _mm512_xor_si512(sum, a);
  return carry;
}

// Adds kSteps words to ones and twos, and hands on what they carry: carry(p, fours).
template <int kSteps, int kCount, class Carry>
MBU_INLINE void add_words(const Step* step, const Word* weight, const Word* const* input, __m512i* ones,
                          __m512i* twos, Carry carry) {
  __m512i sign[kSteps], mask[kSteps];
  each<kSteps>([&](int i) MBU_LAMBDA {
    sign[i] = load(weight + step[i].weight);
    mask[i] = load(weight + step[i].weight + kTileChannels);
  });
  each<kCount>([&](int p) MBU_LAMBDA {
    auto mismatches = [&](int i) MBU_LAMBDA {
      const __m512i a = _mm512_set1_epi32(static_cast<int>(input[p][step[i].source]));
      return _mm512_ternarylogic_epi32(a, sign[i], mask[i], 0x28);  // (a ^ sign) & mask
    };
    if constexpr (kSteps == 1) {
      carry(p, half_add(twos[p], half_add(ones[p], mismatches(0))));
    } else {
      const __m512i first = full_add(ones[p], mismatches(0), mismatches(1));
      if constexpr (kSteps == 2) carry(p, half_add(twos[p], first));
      if constexpr (kSteps == 3) carry(p, full_add(twos[p], first, half_add(ones[p], mismatches(2))));
      if constexpr (kSteps == 4)
        carry(p, full_add(twos[p], first, full_add(ones[p], mismatches(2), mismatches(3))));
    }
  });
}

template <int kCount>
MBU_INLINE void finish_sums(const Conv2dTile& t, int64_t first, int64_t channel, const __m512i* count) {
  const int64_t left = t.channels - channel;
  if (left <= 0) return;
  const auto valid = static_cast<__mmask16>(left >= kGroup ? 0xffff : (1 << left) - 1);
  each<kCount>([&](int p) MBU_LAMBDA {
    const __m512i nnz = load(t.table + t.border[first + p] + channel);
    const __m512i sum = _mm512_sub_epi32(nnz, _mm512_slli_epi32(count[p], 1));
    _mm512_mask_storeu_ps(t.sums + t.target[first + p] + channel, valid, _mm512_cvtepi32_ps(sum));
  });
}

template <int kCount>
MBU_INLINE void finish_bits(const Conv2dTile& t, int64_t first, int64_t channel, const __m512i* count) {
  const int64_t half = channel % kTileChannels / kGroup;  // of the output word
  int64_t word = channel / kTileChannels;
  const int32_t* limits = t.table + channel;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limits += t.channels_padded) {
    const auto flip = static_cast<uint16_t>(t.flip[word] >> (half * kGroup));
    each<kCount>([&](int p) MBU_LAMBDA {
      const __mmask16 bits = _mm512_cmple_epi32_mask(count[p], load(limits + t.border[first + p]));
      auto* out = reinterpret_cast<uint16_t*>(t.bits + t.target[first + p] + word) + half;
      *out = static_cast<uint16_t>(bits ^ flip);
    });
  }
}

template <int kCount, bool kSums>
void run_pixels(const Conv2dTile& t, const Step* step, int64_t steps, int64_t first, int64_t channel) {
  const __m512i zero = _mm512_setzero_si512();
  const Word* input[kCount];
  __m512i ones[kCount], twos[kCount], fours[kCount], carried[kCount];  // bit planes
  __m512i bytes[kCount], eights[kCount];  // eights counted, in bytes and in 32-bit lanes
  each<kCount>([&](int p) MBU_LAMBDA {
    input[p] = t.input + t.source[first + p];
    ones[p] = twos[p] = fours[p] = bytes[p] = eights[p] = zero;
  });
  const __m512i one16 = _mm512_set1_epi16(1);
  auto keep = [&](int p, __m512i carry) MBU_LAMBDA { carried[p] = carry; };
  auto count = [&](int p, __m512i carry) MBU_LAMBDA {
    const __m512i bits = count_bits<1>(full_add(fours[p], carried[p], carry));
    bytes[p] = _mm512_add_epi8(bytes[p], bits);
  };
  const Word* weight = t.weight + channel / kTileChannels * t.weight_stride + channel % kTileChannels;
  int64_t room = kRoom;
  const Step* end = step + steps / 8 * 8;
  for (; step != end; step += 8) {
    add_words<4, kCount>(step, weight, input, ones, twos, keep);
    add_words<4, kCount>(step + 4, weight, input, ones, twos, count);
    if (--room == 0) {
      room = kRoom;
      each<kCount>([&](int p) MBU_LAMBDA {
        const __m512i pairs = _mm512_maddubs_epi16(bytes[p], _mm512_set1_epi8(8));
        eights[p] = _mm512_add_epi32(eights[p], _mm512_madd_epi16(pairs, one16));
        bytes[p] = zero;
      });
    }
  }
  each<kCount>([&](int p) MBU_LAMBDA { carried[p] = zero; });
  if (steps & 4) {
    add_words<4, kCount>(step, weight, input, ones, twos, keep);
    step += 4;
  }
  if (steps % 4 == 1) add_words<1, kCount>(step, weight, input, ones, twos, count);
  if (steps % 4 == 2) add_words<2, kCount>(step, weight, input, ones, twos, count);
  if (steps % 4 == 3) add_words<3, kCount>(step, weight, input, ones, twos, count);
  if (steps % 8 == 4) each<kCount>([&](int p) MBU_LAMBDA { count(p, zero); });
  __m512i total[kCount];
  each<kCount>([&](int p) MBU_LAMBDA {
    const __m512i rest = _mm512_add_epi8(_mm512_add_epi8(count_bits<1>(ones[p]), count_bits<2>(twos[p])),
                                         count_bits<4>(fours[p]));
    const __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16(bytes[p], _mm512_set1_epi8(8)),
                                           _mm512_maddubs_epi16(rest, _mm512_set1_epi8(1)));
    total[p] = _mm512_add_epi32(eights[p], _mm512_madd_epi16(pairs, one16));
  });
  if constexpr (kSums)
    finish_sums<kCount>(t, first, channel, total);
  else
    finish_bits<kCount>(t, first, channel, total);
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
