// conv2d with output channels across lanes: 12 pixels x 32 channels of 32-bit counters live in 24 of the 32
// registers, the sign and mask words of 32 channels in 4 more.
//
// Per pixel and channel word: broadcast the activation word (a load), twice vpternlogd for (a ^ sign) & mask,
// vpopcntd and vpaddd. These 6 operations share two execution ports, so 3 cycles per 1024 products is the
// bound: 341 multiply-adds per cycle. Carry-save adders in front of vpopcntd do not help: they trade one
// operation for one. They do where no weight is zero and a ^ sign is all there is to a product, for the adder
// takes it in: 5 operations for two words instead of 6 (count_pair). Pixels come as a list of offsets, so
// that tiles are full for every width, stride and word count.
#include "cpu/conv2d/finish_avx512.h"
#include "cpu/stream/fetch_ahead.h"

namespace mbu {
namespace {

// low += popcount((word ^ sign0) & mask0), high likewise with sign1, mask1. 0x28 is the truth table.
//
// In assembly for its order alone: a compiler's schedule of the same instructions, with those of other pixels
// in between, was slower by up to a seventh, and by how much changed with every edit.
MBU_INLINE void count_mismatches(const Word& word, __m512i sign0, __m512i mask0, __m512i sign1, __m512i mask1,
                                 __m512i& low, __m512i& high) {
  __m512i x, y;
  __asm__(
      "vpbroadcastd %[word], %[x]\n\t"
      "vmovdqa64 %[x], %[y]\n\t"
      "vpternlogd $0x28, %[mask0], %[sign0], %[x]\n\t"
      "vpternlogd $0x28, %[mask1], %[sign1], %[y]\n\t"
      "vpopcntd %[x], %[x]\n\t"
      "vpopcntd %[y], %[y]\n\t"
      "vpaddd %[x], %[low], %[low]\n\t"
      "vpaddd %[y], %[high], %[high]"
      : [x] "=&v"(x), [y] "=&v"(y), [low] "+v"(low), [high] "+v"(high)
      : [word] "m"(word), [sign0] "v"(sign0), [mask0] "v"(mask0), [sign1] "v"(sign1), [mask1] "v"(mask1));
}

// With a and b the products of two words: ones + a + b = 2 * carry + new ones, in every bit. The two
// exclusive ors give ones ^ a and then ones ^ a ^ b; where the first is set the carry is b, else it is what
// ones was: 0x74.
MBU_INLINE void count_pair(const Word& first, const Word& second, __m512i sign0, __m512i sign1, __m512i& ones,
                           __m512i& carries) {
  __m512i x, y;
  __asm__(
      "vmovdqa64 %[ones], %[x]\n\t"
      "vpternlogd $0x96, %[first]%{1to16%}, %[sign0], %[ones]\n\t"
      "vmovdqa64 %[ones], %[y]\n\t"
      "vpternlogd $0x96, %[second]%{1to16%}, %[sign1], %[ones]\n\t"
      "vpternlogd $0x74, %[ones], %[y], %[x]\n\t"
      "vpopcntd %[x], %[x]\n\t"
      "vpaddd %[x], %[carries], %[carries]"
      : [x] "=&v"(x), [y] "=&v"(y), [ones] "+v"(ones), [carries] "+v"(carries)
      : [first] "m"(first), [second] "m"(second), [sign0] "v"(sign0), [sign1] "v"(sign1));
}

// start + mismatches of half a tile's channels; every run has an even number of words.
template <int kPixels>
MBU_INLINE void count_half(const Conv2dTile& t, const Word* input, const int64_t* offset, const Word* weight,
                           __m512i start, int32_t* counts) {
  __m512i ones[kPixels], carries[kPixels];
#pragma GCC unroll 12
  for (int p = 0; p < kPixels; ++p) {
    ones[p] = _mm512_and_si512(start, _mm512_set1_epi32(1));
    carries[p] = _mm512_srai_epi32(start, 1);
  }
  for (const Conv2dRun *run = t.run, *last = run + t.runs; run != last; ++run) {
    const Word *word = input + run->source, *end = word + run->count, *w = weight + run->weight;
    for (; word != end; word += 2, w += 4 * kTileChannels) {
      const __m512i sign0 = load(w), sign1 = load(w + 2 * kTileChannels);
#pragma GCC unroll 12
      for (int p = 0; p < kPixels; ++p)
        count_pair(word[offset[p]], word[offset[p] + 1], sign0, sign1, ones[p], carries[p]);
    }
  }
#pragma GCC unroll 12
  for (int p = 0; p < kPixels; ++p)
    _mm512_store_si512(counts + p * kTileChannels,
                       _mm512_add_epi32(_mm512_slli_epi32(carries[p], 1), _mm512_popcnt_epi32(ones[p])));
}

// Of counts in memory, [pixel][half][16]: the arithmetic needs the registers that hold them.
// Pixels of one border class; false where finish_pixels has to do it.
__attribute__((noinline)) bool finish_stretch(const Conv2dTile& t, int64_t first, int pixels, int64_t tile,
                                              const int32_t* counts) {
  const auto dots_of = [&](int p, const Floats* nnz, Floats* y) MBU_LAMBDA {
    const int32_t* count = counts + p * kTileChannels;
    y[0] = fused(to_floats(load(count), load(count + 16)), -2.0f, nnz[0]);  // whole numbers: exact
  };
  return finish_alike<1>(t, &first, pixels, tile, dots_of);
}

template <bool kWhole>
void finish_pixels(const Conv2dTile& t, int64_t first, int64_t pixels, int64_t tile, const int32_t* counts) {
  for (int64_t p = 0; p < pixels; ++p, counts += kTileChannels)
    finish_floats<kWhole>(t, first + p, tile, load(counts), load(counts + 16));
}

bool flips_bits(const Conv2dTile& t, int64_t tile) {
  Word flips = 0;
  for (int64_t plane = 0; plane < t.planes; ++plane) flips |= t.flip[tile + plane * t.out_words];
  return flips != 0;
}

// Bits of pixels that share their limits. Comparisons take one of the two ports and sign masks the other, so
// the counters of the upper channels start from `start` = -1 - limit of the first plane.
template <int kPixels>
MBU_INLINE void finish_shared(const Conv2dTile& t, int64_t first, int64_t tile, __m512i start,
                              const __m512i* low, const __m512i* high) {
  const int32_t* limits = t.table + t.border[first] + tile * kTileChannels;
  const auto out = [&](int p, int64_t plane) MBU_LAMBDA {
    return reinterpret_cast<__mmask16*>(t.bits + t.target[first + p] + tile + plane * t.out_words);
  };
  const __m512i limit = load(limits);
#pragma GCC unroll 12
  for (int p = 0; p < kPixels; ++p) {
    _store_mask16(out(p, 0), _mm512_cmple_epi32_mask(low[p], limit));
    _store_mask16(out(p, 0) + 1, _mm512_movepi32_mask(high[p]));
  }
  for (int64_t plane = 1; plane < t.planes; ++plane) {
    limits += t.channels_padded;
    const __m512i limit0 = load(limits), limit1 = _mm512_add_epi32(load(limits + 16), start);
#pragma GCC unroll 12
    for (int p = 0; p < kPixels; ++p) {
      _store_mask16(out(p, plane), _mm512_cmple_epi32_mask(low[p], limit0));
      _store_mask16(out(p, plane) + 1, _mm512_cmple_epi32_mask(high[p], limit1));
    }
  }
}

template <int kPixels>
MBU_INLINE void finish_bits(const Conv2dTile& t, int64_t first, int64_t tile, const __m512i* low,
                            const __m512i* high) {
  int64_t word = tile;
  const int32_t* limits = t.table + tile * kTileChannels;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limits += t.channels_padded) {
    const Word flip = t.flip[word];
#pragma GCC unroll 12
    for (int p = 0; p < kPixels; ++p) {
      const int32_t* limit = limits + t.border[first + p];
      const __mmask16 a = _mm512_cmple_epi32_mask(low[p], load(limit));
      const __mmask16 b = _mm512_cmple_epi32_mask(high[p], load(limit + 16));
      Word* out = t.bits + t.target[first + p] + word;
      if (flip == 0) {  // masks straight to memory: joining them would take the port that vpopcntd needs
        _store_mask16(reinterpret_cast<__mmask16*>(out), a);
        _store_mask16(reinterpret_cast<__mmask16*>(out) + 1, b);
      } else {
        *out = _cvtmask32_u32(_mm512_kunpackw(b, a)) ^ flip;
      }
    }
  }
}

// kStride: distance in words between the pixels when it is the same for all and known to the compiler, which
// then needs one address instead of twelve (some 4 %); 0: any pixels. plain: no bit is flipped.
template <int kPixels, int kStride, bool kSums, bool kBinary>
MBU_INLINE void run_pixels(const Conv2dTile& t, int64_t first, int64_t tile, bool plain) {
  __m512i low[kPixels], high[kPixels];
  int64_t offset[kPixels];
#pragma GCC unroll 12
  for (int p = 0; p < kPixels; ++p) offset[p] = kStride ? p * kStride : t.source[first + p] - t.source[first];
  const Word* input = t.input + t.source[first];
  const Word* weight = t.weight + tile * t.weight_stride;
  const bool shared = !kSums && kStride && plain && t.border[first] == t.border[first + kPixels - 1];
  const __m512i zero = _mm512_setzero_si512();
  const __m512i start = shared ? _mm512_sub_epi32(_mm512_set1_epi32(-1),
                                                  load(t.table + t.border[first] + tile * kTileChannels + 16))
                               : zero;
  alignas(64) int32_t counts[kPixels * kTileChannels];
  if constexpr (kBinary) {
    count_half<kPixels>(t, input, offset, weight, zero, counts);
    count_half<kPixels>(t, input, offset, weight + 16, start, counts + 16);
  } else {
#pragma GCC unroll 12
    for (int p = 0; p < kPixels; ++p) low[p] = zero, high[p] = start;
    for (const Conv2dRun *run = t.run, *last = run + t.runs; run != last; ++run) {
      const Word *word = input + run->source, *end = word + run->count, *w = weight + run->weight;
      for (; word != end; ++word, w += 2 * kTileChannels) {
        const __m512i sign0 = load(w), sign1 = load(w + 16), mask0 = load(w + 32), mask1 = load(w + 48);
#pragma GCC unroll 12
        for (int p = 0; p < kPixels; ++p)
          count_mismatches(word[offset[p]], sign0, mask0, sign1, mask1, low[p], high[p]);
      }
    }
  }
  // Counts lie in memory where they are binary or become floats.
#pragma GCC unroll 12
  for (int p = 0; p < kPixels; ++p) {
    int32_t* count = counts + p * kTileChannels;
    if (kBinary) low[p] = load(count), high[p] = load(count + 16);
    if (!kBinary && kSums) _mm512_store_si512(count, low[p]), _mm512_store_si512(count + 16, high[p]);
  }
  if constexpr (!kSums) {
    if (shared)
      finish_shared<kPixels>(t, first, tile, start, low, high);
    else
      finish_bits<kPixels>(t, first, tile, low, high);
    return;
  }
  // Nearly every tile lies in one row and inside the image.
  if (kPixels == 12 && kStride && t.border[first] == t.border[first + 11] &&
      finish_stretch(t, first, kPixels, tile, counts))
    return;
  if (t.channels - tile * kTileChannels >= kTileChannels)
    finish_pixels<true>(t, first, kPixels, tile, counts);
  else
    finish_pixels<false>(t, first, kPixels, tile, counts);
}

template <int kStride, bool kSums, bool kBinary>
void run(const Conv2dTile& t) {
  FetchAhead* ahead = kSums && t.stream ? t.stream->ahead : nullptr;
  if (ahead) ahead->spread((t.tile_end - t.tile_begin) * (t.pixels / 12));
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    const bool plain = kSums || !flips_bits(t, tile);
    int64_t i = 0;
    // Pixels of one row lie a step apart, which the fast variants need. Where fewer than 12 are left in a
    // row, 8 or 4 of them are still faster that way than 12 with an address each.
    int64_t left = t.row_pixels;
    while (i + 12 <= t.pixels) {
      if (ahead) ahead->some();
      int64_t count = 12;
      if (kStride && left >= 12) {
        run_pixels<12, kStride, kSums, kBinary>(t, i, tile, plain);
      } else if (kStride && left >= 8) {
        run_pixels<8, kStride, kSums, kBinary>(t, i, tile, plain);
        count = 8;
      } else if (kStride && left >= 4) {
        run_pixels<4, kStride, kSums, kBinary>(t, i, tile, plain);
        count = 4;
      } else {
        run_pixels<12, 0, kSums, kBinary>(t, i, tile, false);
      }
      i += count;
      for (left -= count; left <= 0;) left += t.row_pixels;
    }
    for (; i + 8 <= t.pixels; i += 8) run_pixels<8, 0, kSums, kBinary>(t, i, tile, false);
    for (; i + 4 <= t.pixels; i += 4) run_pixels<4, 0, kSums, kBinary>(t, i, tile, false);
    for (; i + 2 <= t.pixels; i += 2) run_pixels<2, 0, kSums, kBinary>(t, i, tile, false);
    for (; i < t.pixels; ++i) run_pixels<1, 0, kSums, kBinary>(t, i, tile, false);
  }
}

template <bool kSums, bool kBinary>
void run(const Conv2dTile& t) {
  switch (t.pixel_step) {
    case 1:
      return run<1, kSums, kBinary>(t);
    case 2:
      return run<2, kSums, kBinary>(t);
    case 4:
      return run<4, kSums, kBinary>(t);
    case 8:
      return run<8, kSums, kBinary>(t);
    case 16:
      return run<16, kSums, kBinary>(t);
    case 32:
      return run<32, kSums, kBinary>(t);
    default:
      return run<0, kSums, kBinary>(t);
  }
}

// Whether count_half can take the words, and there are enough of them for what comes behind the last one.
bool come_in_pairs(const Conv2dTile& t) {
  int64_t words = 0;
  for (const Conv2dRun *run = t.run, *last = run + t.runs; run != last; ++run) {
    if (run->count % 2) return false;
    words += run->count;
  }
  return words >= 8;
}

}  // namespace

void conv2d_12x32__avx512vpopcnt(const Conv2dTile& t) {
  const bool pairs = t.binary && come_in_pairs(t);
  if (t.sums || t.stream)
    pairs ? run<true, true>(t) : run<true, false>(t);
  else
    pairs ? run<false, true>(t) : run<false, false>(t);
}

}  // namespace mbu
