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

MBU_INLINE __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}

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

// 32 channels of a pixel, as two halves; channels that are not `valid` are 0.
struct Floats {
  __m512 low, high;
};

MBU_INLINE Floats load_floats(const float* from, __mmask32 valid) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(valid), from),
          _mm512_maskz_loadu_ps(static_cast<__mmask16>(valid >> 16), from + 16)};
}

MBU_INLINE Floats load_floats(const Bfloat16* from, __mmask32 valid) {
  const __m512i halves = _mm512_maskz_loadu_epi16(valid, from);
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(halves));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(halves, 1));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(low, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(high, 16))};
}

MBU_INLINE void store_floats(float* to, Floats y, __mmask32 valid) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(valid), y.low);
  _mm512_mask_storeu_ps(to + 16, static_cast<__mmask16>(valid >> 16), y.high);
}

// As `narrow` in mbu/bfloat16.h.
MBU_INLINE __m256i round_floats(__m512 y) {
  const __m512i bits = _mm512_castps_si512(y), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(
      _mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), nan, _mm512_set1_epi32(kBfloat16Nan)));
}

MBU_INLINE void store_floats(Bfloat16* to, Floats y, __mmask32 valid) {
  const __m512i low = _mm512_castsi256_si512(round_floats(y.low));
  _mm512_mask_storeu_epi16(to, valid, _mm512_inserti64x4(low, round_floats(y.high), 1));
}

MBU_INLINE __mmask32 valid_channels(const Conv2dTile& t, int64_t tile) {
  const int64_t left = t.channels - tile * kTileChannels;
  return left >= kTileChannels ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
}

MBU_INLINE Floats dot_products(const Conv2dTile& t, int64_t pixel, int64_t channel, __m512i low,
                               __m512i high) {
  const int32_t* nnz = t.table + t.border[pixel] + channel;
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(load(nnz), _mm512_slli_epi32(low, 1))),
          _mm512_cvtepi32_ps(_mm512_sub_epi32(load(nnz + 16), _mm512_slli_epi32(high, 1)))};
}

template <int kPixels>
MBU_INLINE void finish_sums(const Conv2dTile& t, int64_t first, int64_t tile, const __m512i* low,
                            const __m512i* high) {
  const int64_t channel = tile * kTileChannels;
  const __mmask32 valid = valid_channels(t, tile);
#pragma GCC unroll 12
  for (int p = 0; p < kPixels; ++p)
    store_floats(t.sums + t.target[first + p] + channel, dot_products(t, first + p, channel, low[p], high[p]),
                 valid);
}

template <class Value>
MBU_INLINE Floats shortcut_of(const StreamEpilogue& s, int64_t pixel, int64_t tile, __mmask32 valid) {
  const void* const* term = s.shortcut + tile * s.terms;
  const int64_t offset = s.source[pixel];
  Floats sum = load_floats(static_cast<const Value*>(term[0]) + offset, valid);
  if (s.terms == 1) return sum;
  for (int64_t i = 1; i < s.terms; ++i) {
    const Floats value = load_floats(static_cast<const Value*>(term[i]) + offset, valid);
    sum = {_mm512_add_ps(sum.low, value.low), _mm512_add_ps(sum.high, value.high)};
  }
  const __m512 share = _mm512_set1_ps(s.share);
  return {_mm512_mul_ps(sum.low, share), _mm512_mul_ps(sum.high, share)};
}

// The float stream's arithmetic on the counts of some pixels, [pixel][half][16]; see cpu/stream/stream.h.
void finish_stream(const Conv2dTile& t, int64_t first, int64_t pixels, int64_t tile, const int32_t* counts) {
  const StreamEpilogue& s = *t.stream;
  const int64_t channel = tile * kTileChannels;
  const __mmask32 valid = valid_channels(t, tile);
  for (int64_t p = 0; p < pixels; ++p, counts += kTileChannels) {
    Floats y = dot_products(t, first + p, channel, load(counts), load(counts + 16));
    const float* parameters = s.affine + channel;
    for (int64_t step = 0; step < s.steps; ++step, parameters += 2 * t.channels) {
      const Floats factor = load_floats(parameters, valid),
                   offset = load_floats(parameters + t.channels, valid);
      y = {_mm512_fmadd_ps(y.low, factor.low, offset.low), _mm512_fmadd_ps(y.high, factor.high, offset.high)};
    }
    if (s.terms) {
      const Floats shortcut = s.shortcut_type == FloatType::bf16
                                  ? shortcut_of<Bfloat16>(s, first + p, tile, valid)
                                  : shortcut_of<float>(s, first + p, tile, valid);
      y = {_mm512_add_ps(y.low, shortcut.low), _mm512_add_ps(y.high, shortcut.high)};
    }
    if (s.relu) {  // keeps NaN, the second operand
      const __m512 zero = _mm512_setzero_ps();
      y = {_mm512_max_ps(zero, y.low), _mm512_max_ps(zero, y.high)};
    }
    const int64_t out = t.target[first + p] + channel;
    if (s.narrow)
      store_floats(s.narrow + out, y, valid);
    else
      store_floats(s.output + out, y, valid);
  }
}

template <int kPixels, int kStride>
MBU_INLINE void finish_bits(const Conv2dTile& t, int64_t first, int64_t tile, const __m512i* low,
                            const __m512i* high) {
  int64_t word = tile;
  const int32_t* limits = t.table + tile * kTileChannels;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limits += t.channels_padded) {
    const Word flip = t.flip[word];
    // Nearly every tile lies in one row and inside the image: its limits are loaded once.
    if (kPixels == 12 && kStride && flip == 0 && t.border[first] == t.border[first + 11]) {
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
// then needs one address instead of twelve (some 4 %); 0: any pixels.
template <int kPixels, int kStride, bool kSums>
MBU_INLINE void run_pixels(const Conv2dTile& t, int64_t first, int64_t tile) {
  __m512i low[kPixels], high[kPixels];
  int64_t offset[kPixels];
#pragma GCC unroll 12
  for (int p = 0; p < kPixels; ++p) {
    low[p] = high[p] = _mm512_setzero_si512();
    offset[p] = kStride ? p * kStride : t.source[first + p] - t.source[first];
  }
  const Word* input = t.input + t.source[first];
  const Word* weight = t.weight + tile * t.weight_stride;
  for (const Conv2dRun *run = t.run, *last = run + t.runs; run != last; ++run) {
    const Word *word = input + run->source, *end = word + run->count, *w = weight + run->weight;
    for (; word != end; ++word, w += 2 * kTileChannels) {
      const __m512i sign0 = load(w), sign1 = load(w + 16), mask0 = load(w + 32), mask1 = load(w + 48);
#pragma GCC unroll 12
      for (int p = 0; p < kPixels; ++p)
        count_mismatches(word[offset[p]], sign0, mask0, sign1, mask1, low[p], high[p]);
    }
  }
  if constexpr (kSums) {
    if (t.stream) {
      alignas(64) int32_t counts[kPixels * kTileChannels];
#pragma GCC unroll 12
      for (int p = 0; p < kPixels; ++p) {
        _mm512_store_si512(counts + p * kTileChannels, low[p]);
        _mm512_store_si512(counts + p * kTileChannels + 16, high[p]);
      }
      finish_stream(t, first, kPixels, tile, counts);
    } else {
      finish_sums<kPixels>(t, first, tile, low, high);
    }
  } else {
    finish_bits<kPixels, kStride>(t, first, tile, low, high);
  }
}

template <int kStride, bool kSums>
void run(const Conv2dTile& t) {
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    int64_t i = 0;
    // Pixels of one row lie a step apart, which the fast variants need. Where fewer than 12 are left in a
    // row, 8 or 4 of them are still faster that way than 12 with an address each.
    int64_t left = t.row_pixels;
    while (i + 12 <= t.pixels) {
      int64_t count = 12;
      if (kStride && left >= 12) {
        run_pixels<12, kStride, kSums>(t, i, tile);
      } else if (kStride && left >= 8) {
        run_pixels<8, kStride, kSums>(t, i, tile);
        count = 8;
      } else if (kStride && left >= 4) {
        run_pixels<4, kStride, kSums>(t, i, tile);
        count = 4;
      } else {
        run_pixels<12, 0, kSums>(t, i, tile);
      }
      i += count;
      for (left -= count; left <= 0;) left += t.row_pixels;
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
  if (t.sums || t.stream)
    run<true>(t);
  else
    run<false>(t);
}

}  // namespace mbu
