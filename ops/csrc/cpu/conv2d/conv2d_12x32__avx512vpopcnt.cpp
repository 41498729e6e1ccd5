// conv2d with output channels across lanes: 12 pixels x 32 channels of 32-bit counters live in 24 of the 32
// registers, the sign and mask words of 32 channels in 4 more.
//
// Per pixel and channel word: broadcast the activation word (a load), twice vpternlogd for (a ^ sign) & mask,
// vpopcntd and vpaddd. These 6 operations share two execution ports, so 3 cycles per 1024 products is the
// bound: 341 multiply-adds per cycle. Carry-save adders in front of vpopcntd do not help: they trade one
// operation for one. Pixels come as a list of offsets, so that tiles are full for every width, stride and
// word count.
#include <immintrin.h>

#include "cpu/kernels.h"

namespace mbu {
namespace {

#define MBU_INLINE inline __attribute__((always_inline))

constexpr int kAndOfXor = 0x28;  // truth table of (a ^ b) & c for vpternlogd

MBU_INLINE __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}

template <int kPixels>
MBU_INLINE void finish_sums(const Conv2dTile& t, int64_t first, int64_t tile, const __m512i* low,
                            const __m512i* high) {
  const int64_t left = t.channels - tile * kTileChannels;
  const __mmask32 valid = left >= kTileChannels ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
#pragma GCC unroll 12
  for (int p = 0; p < kPixels; ++p) {
    const int32_t* nnz = t.table + t.border[first + p] + tile * kTileChannels;
    float* sums = t.sums + t.target[first + p] + tile * kTileChannels;
    const __m512i a = _mm512_sub_epi32(load(nnz), _mm512_slli_epi32(low[p], 1));
    const __m512i b = _mm512_sub_epi32(load(nnz + 16), _mm512_slli_epi32(high[p], 1));
    _mm512_mask_storeu_ps(sums, static_cast<__mmask16>(valid), _mm512_cvtepi32_ps(a));
    _mm512_mask_storeu_ps(sums + 16, static_cast<__mmask16>(valid >> 16), _mm512_cvtepi32_ps(b));
  }
}

// Nearly every tile lies inside the image: its limits are loaded once.
MBU_INLINE bool same_border(const int32_t* border) {
  const __m512i all = _mm512_maskz_loadu_epi32(0xfff, border);
  return _mm512_mask_cmpneq_epi32_mask(0xfff, all, _mm512_set1_epi32(border[0])) == 0;
}

template <int kPixels>
MBU_INLINE void finish_bits(const Conv2dTile& t, int64_t first, int64_t tile, const __m512i* low,
                            const __m512i* high) {
  int64_t word = tile;
  const int32_t* limits = t.table + tile * kTileChannels;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limits += t.channels_padded) {
    const Word flip = t.flip[word];
    if (kPixels == 12 && flip == 0 && same_border(t.border + first)) {
      const __m512i limit0 = load(limits + t.border[first]), limit1 = load(limits + t.border[first] + 16);
#pragma GCC unroll 12
      for (int p = 0; p < kPixels; ++p) {
        Word* out = t.bits + t.target[first + p] + word;
        _store_mask16(reinterpret_cast<__mmask16*>(out), _mm512_cmple_epi32_mask(low[p], limit0));
        _store_mask16(reinterpret_cast<__mmask16*>(out) + 1, _mm512_cmple_epi32_mask(high[p], limit1));
      }
      continue;
    }
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
// saves 12 registers of addresses and their reloads (some 4 %); 0: any pixels.
template <int kPixels, int kStride, bool kSums>
MBU_INLINE void run_pixels(const Conv2dTile& t, int64_t first, int64_t tile) {
  __m512i low[kPixels], high[kPixels];
  const Word* source[kPixels];
#pragma GCC unroll 12
  for (int p = 0; p < kPixels; ++p) {
    low[p] = high[p] = _mm512_setzero_si512();
    source[p] = kStride ? t.input + t.source[first] + p * kStride : t.input + t.source[first + p];
  }
  const Word* weight = t.weight + tile * t.weight_stride;
  for (const Conv2dRun *run = t.run, *last = run + t.runs; run != last; ++run) {
    const Word* w = weight + run->weight;
    for (int64_t at = run->source, end = at + run->count; at != end; ++at, w += 2 * kTileChannels) {
      const __m512i sign0 = load(w), sign1 = load(w + 16), mask0 = load(w + 32), mask1 = load(w + 48);
#pragma GCC unroll 12
      for (int p = 0; p < kPixels; ++p) {
        const __m512i a = _mm512_set1_epi32(static_cast<int>(source[p][at]));
        const __m512i x = _mm512_ternarylogic_epi32(sign0, a, mask0, kAndOfXor);
        const __m512i y = _mm512_ternarylogic_epi32(a, sign1, mask1, kAndOfXor);
        low[p] = _mm512_add_epi32(low[p], _mm512_popcnt_epi32(x));
        high[p] = _mm512_add_epi32(high[p], _mm512_popcnt_epi32(y));
        // Half of the pixels at a time: left alone, GCC interleaves all of them, which costs some per cent.
        if (p % 6 == 5) __asm__ volatile("" : "+v"(low[p]), "+v"(high[p]));
      }
    }
  }
  if constexpr (kSums)
    finish_sums<kPixels>(t, first, tile, low, high);
  else
    finish_bits<kPixels>(t, first, tile, low, high);
}

template <int kStride, bool kSums>
void run(const Conv2dTile& t) {
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    int64_t i = 0;
    // Pixels of one row lie a step apart, which the fast variants need. Where fewer than 12 are left in a
    // row, 8 or 4 of them are still faster that way than 12 with an address each.
    const auto in_step = [&](int64_t count) {
      return kStride && t.source[i + count - 1] - t.source[i] == (count - 1) * kStride;
    };
    while (i + 12 <= t.pixels) {
      if (in_step(12)) {
        run_pixels<12, kStride, kSums>(t, i, tile);
        i += 12;
      } else if (in_step(8)) {
        run_pixels<8, kStride, kSums>(t, i, tile);
        i += 8;
      } else if (in_step(4)) {
        run_pixels<4, kStride, kSums>(t, i, tile);
        i += 4;
      } else {
        run_pixels<12, 0, kSums>(t, i, tile);
        i += 12;
      }
    }
    for (; i + 8 <= t.pixels; i += 8) run_pixels<8, 0, kSums>(t, i, tile);
    for (; i + 4 <= t.pixels; i += 4) run_pixels<4, 0, kSums>(t, i, tile);
    for (; i + 2 <= t.pixels; i += 2) run_pixels<2, 0, kSums>(t, i, tile);
    for (; i < t.pixels; ++i) run_pixels<1, 0, kSums>(t, i, tile);
  }
}

template <bool kSums>
void run(const Conv2dTile& t) {
  switch (t.pixel_step) {
    case 1:
      return run<1, kSums>(t);
    case 2:
      return run<2, kSums>(t);
    case 4:
      return run<4, kSums>(t);
    case 8:
      return run<8, kSums>(t);
    case 16:
      return run<16, kSums>(t);
    case 32:
      return run<32, kSums>(t);
    default:
      return run<0, kSums>(t);
  }
}

}  // namespace

void conv2d_12x32__avx512vpopcnt(const Conv2dTile& t) {
  if (t.sums)
    run<true>(t);
  else
    run<false>(t);
}

}  // namespace mbu
