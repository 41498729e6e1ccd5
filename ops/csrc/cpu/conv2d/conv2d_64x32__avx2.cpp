// conv2d by codebook with AVX2: 64 pixels x 32 channels, pixels across the bytes of a register.
//
// Four input channels are a nibble of the activations: one of 16 values. Against four masked binary weights,
// one of 81 combinations, the number of mismatches is a table of 16 bytes; all tables together are the
// codebook, and the weights say which table comes next. vpshufb looks up 32 pixels at once:
//
//   count[32 pixels] += codebook[weights of 4 channels][nibbles of 32 pixels]
//
// Two operations per 128 products, where counting bits takes eight per 256: 192 multiply-adds per cycle with
// three ports, 128 where only one of them shuffles. A pass of its own brings the bits of a block of pixels
// into nibbles first, once for all output channels. Counts are bytes, 4 at most per nibble, and are widened
// to 16 bits every 7 words.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "cpu/kernels.h"
#include "cpu/unroll.h"
#include "mbu/scratch.h"

namespace mbu {

void conv2d_8x8__avx2(const Conv2dTile& t);

namespace {

constexpr int kLanes = 32;   // pixels of a register
constexpr int kBlock = 64;   // pixels of a block
constexpr int kNibbles = 8;  // of a word
constexpr int kGroup = 4;    // channels whose counters are in registers at a time
constexpr int kGroups = kTileChannels / kGroup;
constexpr int64_t kChunk = 7;          // words: 7 * 8 nibbles * 4 = 224 fits a byte
constexpr int64_t kMaxCount = 0x7fff;  // counts are compared as signed 16-bit numbers
constexpr int64_t kFewPixels = 26;     // popcount takes no longer for as many than this for a register full

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

MBU_INLINE __m256i load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

MBU_INLINE void store(void* p, __m256i x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), x);
}

MBU_INLINE __m256i load_two(const void* low, const void* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(low))),
                                 _mm_loadu_si128(static_cast<const __m128i*>(high)), 1);
}

// Words of 32 pixels, the four of x[v] in lane h being pixels 16h + 4v .., to their nibbles: 8 vectors,
// `step` bytes apart.
MBU_INLINE void store_nibbles(const __m256i* x, uint8_t* nibbles, int64_t step) {
  const __m256i by_byte = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13,  //
                                                                    2, 6, 10, 14, 3, 7, 11, 15));
  const __m256i low = _mm256_set1_epi8(15);
  __m256i y[4];
  for (int v = 0; v < 4; ++v) y[v] = _mm256_shuffle_epi8(x[v], by_byte);
  const __m256i a = _mm256_unpacklo_epi32(y[0], y[1]), b = _mm256_unpacklo_epi32(y[2], y[3]);
  const __m256i c = _mm256_unpackhi_epi32(y[0], y[1]), d = _mm256_unpackhi_epi32(y[2], y[3]);
  const __m256i bytes[4] = {_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b),
                            _mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d)};
  for (int j = 0; j < 4; ++j) {
    store(nibbles + 2 * j * step, _mm256_and_si256(bytes[j], low));
    store(nibbles + (2 * j + 1) * step, _mm256_and_si256(_mm256_srli_epi16(bytes[j], 4), low));
  }
}

// The nibbles [steps][8][kVectors * 32] of a block of pixels; past the last pixel, that one again.
template <int kVectors>
void split_block(const Conv2dTile& t, int64_t first, uint8_t* nibbles) {
  constexpr int64_t kStep = kVectors * kLanes;
  const Word* pixel[kVectors * kLanes];
  for (int p = 0; p < kVectors * kLanes; ++p)
    pixel[p] = t.input + t.source[std::min<int64_t>(first + p, t.pixels - 1)];
  for (int64_t i = 0; i < t.runs; ++i) {
    const int64_t end = t.run[i].source + t.run[i].count;
    int64_t k = t.run[i].source;
    for (; k + 4 <= end; k += 4, nibbles += 4 * kNibbles * kStep) {
      for (int v = 0; v < kVectors; ++v) {
        const Word** px = pixel + v * kLanes;
        __m256i x[4][4];
        for (int q = 0; q < 4; ++q) {
          __m256i w[4];
          for (int j = 0; j < 4; ++j) w[j] = load_two(px[4 * q + j] + k, px[16 + 4 * q + j] + k);
          const __m256i a = _mm256_unpacklo_epi32(w[0], w[1]), b = _mm256_unpacklo_epi32(w[2], w[3]);
          const __m256i c = _mm256_unpackhi_epi32(w[0], w[1]), d = _mm256_unpackhi_epi32(w[2], w[3]);
          x[0][q] = _mm256_unpacklo_epi64(a, b);
          x[1][q] = _mm256_unpackhi_epi64(a, b);
          x[2][q] = _mm256_unpacklo_epi64(c, d);
          x[3][q] = _mm256_unpackhi_epi64(c, d);
        }
        for (int j = 0; j < 4; ++j) store_nibbles(x[j], nibbles + j * kNibbles * kStep + v * kLanes, kStep);
      }
    }
    for (; k < end; ++k, nibbles += kNibbles * kStep) {
      for (int v = 0; v < kVectors; ++v) {
        const Word** px = pixel + v * kLanes;
        __m256i x[4];
        for (int q = 0; q < 4; ++q) {
          auto word = [&](int p) { return static_cast<int>(px[p][k]); };
          x[q] = _mm256_setr_epi32(word(4 * q), word(4 * q + 1), word(4 * q + 2), word(4 * q + 3),
                                   word(16 + 4 * q), word(17 + 4 * q), word(18 + 4 * q), word(19 + 4 * q));
        }
        store_nibbles(x, nibbles + v * kLanes, kStep);
      }
    }
  }
}

// A tile's weights as offsets into the codebook: [groups][steps][8 nibbles][4 channels].
void look_up_weight(const Conv2dTile& t, int64_t tile, int64_t steps, uint16_t* offsets) {
  const __m128i by_byte = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m128i low = _mm_set1_epi8(15);
  const int64_t group_size = steps * kNibbles * kGroup;
  for (int64_t i = 0; i < t.runs; ++i) {
    const Word* w = t.weight + tile * t.weight_stride + t.run[i].weight;
    for (int64_t k = 0; k < t.run[i].count; ++k, w += 2 * kTileChannels, offsets += kNibbles * kGroup) {
      for (int g = 0; g < kGroups; ++g) {
        const __m128i sign = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w + g * kGroup));
        const __m128i mask =
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(w + kTileChannels + g * kGroup));
        const __m128i even =
            _mm_or_si128(_mm_and_si128(sign, low), _mm_slli_epi16(_mm_and_si128(mask, low), 4));
        const __m128i odd =
            _mm_or_si128(_mm_and_si128(_mm_srli_epi16(sign, 4), low), _mm_andnot_si128(low, mask));
        const __m128i a = _mm_shuffle_epi8(even, by_byte), b = _mm_shuffle_epi8(odd, by_byte);
        uint16_t* out = offsets + g * group_size;
        store(out, _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_unpacklo_epi32(a, b)), 4));
        store(out + 16, _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_unpackhi_epi32(a, b)), 4));
      }
    }
  }
}

// Counts of a block: [32 channels][kVectors][even pixels 16 | odd pixels 16].
template <int kVectors>
using Counts = uint16_t[kTileChannels][kVectors][2][kLanes / 2];

// bytes[v] += table[a[v]]. In assembly, because a compiler copies every counter once per step.
template <int kVectors>
MBU_INLINE void add_counts(const uint8_t* table, const __m256i* a, __m256i* bytes) {
  __m256i x, y;
  const auto& entries = *reinterpret_cast<const __m128i*>(table);
  if constexpr (kVectors == 2) {
    __asm__(
        "vbroadcasti128 %[table], %[x]\n\t"
        "vpshufb %[a0], %[x], %[y]\n\t"
        "vpshufb %[a1], %[x], %[x]\n\t"
        "vpaddb %[y], %[b0], %[b0]\n\t"
        "vpaddb %[x], %[b1], %[b1]"
        : [x] "=&x"(x), [y] "=&x"(y), [b0] "+x"(bytes[0]), [b1] "+x"(bytes[1])
        : [table] "m"(entries), [a0] "x"(a[0]), [a1] "x"(a[1]));
  } else {
    __asm__(
        "vbroadcasti128 %[table], %[x]\n\t"
        "vpshufb %[a0], %[x], %[x]\n\t"
        "vpaddb %[x], %[b0], %[b0]"
        : [x] "=&x"(x), [b0] "+x"(bytes[0])
        : [table] "m"(entries), [a0] "x"(a[0]));
  }
}

// Adds the mismatches of `steps` words to the counts of four channels.
template <int kVectors>
MBU_INLINE void count_words(const uint8_t* nibbles, const uint16_t* offsets, int64_t steps, bool start,
                            uint16_t (*counts)[kVectors][2][kLanes / 2]) {
  __m256i bytes[kGroup][kVectors];
  each<kGroup>([&](int c) MBU_LAMBDA {
    each<kVectors>([&](int v) MBU_LAMBDA { bytes[c][v] = _mm256_setzero_si256(); });
  });
  // A whole word per iteration: few enough iterations that the branch at their end is predicted.
  for (; steps; --steps, offsets += kNibbles * kGroup, nibbles += kNibbles * kVectors * kLanes) {
    each<kNibbles>([&](int n) MBU_LAMBDA {
      __m256i a[kVectors];
      each<kVectors>([&](int v) MBU_LAMBDA { a[v] = load(nibbles + (n * kVectors + v) * kLanes); });
      each<kGroup>([&](int c) MBU_LAMBDA {
        add_counts<kVectors>(kCodebook.data() + offsets[n * kGroup + c], a, bytes[c]);
      });
    });
  }
  const __m256i low = _mm256_set1_epi16(0xff);
  each<kGroup>([&](int c) MBU_LAMBDA {
    each<kVectors>([&](int v) MBU_LAMBDA {
      __m256i even = _mm256_and_si256(bytes[c][v], low), odd = _mm256_srli_epi16(bytes[c][v], 8);
      if (!start) {
        even = _mm256_add_epi16(even, load(counts[c][v][0]));
        odd = _mm256_add_epi16(odd, load(counts[c][v][1]));
      }
      store(counts[c][v][0], even);
      store(counts[c][v][1], odd);
    });
  });
}

// The limits that most pixels of a block share. Voting: a class that more than half of them have wins.
int32_t usual_border(const int32_t* border, int64_t pixels) {
  int32_t usual = border[0];
  int64_t votes = 0;
  for (int64_t p = 0; p < pixels; ++p) {
    if (votes == 0) usual = border[p];
    votes += border[p] == usual ? 1 : -1;
  }
  return usual;
}

template <int kVectors>
void finish_bits(const Conv2dTile& t, int64_t first, int64_t pixels, int64_t tile,
                 const Counts<kVectors>& counts) {
  const int32_t* border = t.border + first;
  const int32_t usual = usual_border(border, pixels);
  int64_t word = tile;
  const int32_t* limits = t.table + tile * kTileChannels;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, limits += t.channels_padded) {
    alignas(32) Word above[kVectors][2][2][kLanes / 4];  // [vector][lane][even, odd][8 pixels]
    for (int v = 0; v < kVectors; ++v) {
      __m256i bytes[4];
      for (int j = 0; j < 4; ++j) {
        bytes[j] = _mm256_setzero_si256();
        for (int c = 8 * j + 7; c >= 8 * j; --c) {  // highest channel first, each doubling moves it up a bit
          const auto limit = static_cast<int16_t>(std::clamp<int64_t>(limits[usual + c], -1, kMaxCount));
          const __m256i most = _mm256_set1_epi16(limit);
          const __m256i even = _mm256_cmpgt_epi16(load(counts[c][v][0]), most);
          const __m256i odd = _mm256_cmpgt_epi16(load(counts[c][v][1]), most);
          bytes[j] = _mm256_sub_epi8(_mm256_add_epi8(bytes[j], bytes[j]), _mm256_packs_epi16(even, odd));
        }
      }
      // Lane h of a byte vector: pixels 16h + 0, 2, .. 14, then 16h + 1, 3, .. 15.
      const __m256i a = _mm256_unpacklo_epi8(bytes[0], bytes[1]),
                    b = _mm256_unpacklo_epi8(bytes[2], bytes[3]);
      const __m256i c = _mm256_unpackhi_epi8(bytes[0], bytes[1]),
                    d = _mm256_unpackhi_epi8(bytes[2], bytes[3]);
      const __m256i even0 = _mm256_unpacklo_epi16(a, b), even1 = _mm256_unpackhi_epi16(a, b);
      const __m256i odd0 = _mm256_unpacklo_epi16(c, d), odd1 = _mm256_unpackhi_epi16(c, d);
      store(above[v][0][0], _mm256_permute2x128_si256(even0, even1, 0x20));
      store(above[v][0][1], _mm256_permute2x128_si256(odd0, odd1, 0x20));
      store(above[v][1][0], _mm256_permute2x128_si256(even0, even1, 0x31));
      store(above[v][1][1], _mm256_permute2x128_si256(odd0, odd1, 0x31));
    }
    const Word invert = ~t.flip[word];
    for (int64_t p = 0; p < pixels; ++p) {
      const int64_t v = p / kLanes, lane = p % kLanes / 16, odd = p % 2, i = p % 16 / 2;
      Word bits = above[v][lane][odd][i];
      if (border[p] != usual) {
        bits = 0;
        for (int64_t c = 0; c < kTileChannels; ++c)
          bits |= static_cast<Word>(counts[c][v][odd][lane * 8 + i] > limits[border[p] + c]) << c;
      }
      t.bits[t.target[first + p] + word] = bits ^ invert;
    }
  }
}

// 8 channels of 8 pixels: x[channel] lanes are pixels, afterwards x[pixel] lanes are channels.
MBU_INLINE void transpose(__m128i* x) {
  for (int stage = 0; stage < 3; ++stage) {
    __m128i y[8];
    for (int i = 0; i < 4; ++i) {
      y[2 * i] = _mm_unpacklo_epi16(x[i], x[i + 4]);
      y[2 * i + 1] = _mm_unpackhi_epi16(x[i], x[i + 4]);
    }
    for (int i = 0; i < 8; ++i) x[i] = y[i];
  }
}

template <int kVectors>
void finish_sums(const Conv2dTile& t, int64_t first, int64_t pixels, int64_t tile,
                 const Counts<kVectors>& counts) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int64_t group = 0; group < (pixels + 15) / 16 * 16; group += 8) {
    // Eight pixels whose counts lie side by side: every second one of sixteen.
    const int64_t v = group / kLanes, half = group % kLanes / 16, odd = group % 16 / 8;
    for (int64_t c = 0; c < kTileChannels; c += 8) {
      const int64_t channel = tile * kTileChannels + c, left = t.channels - channel;
      if (left <= 0) break;
      const __m256i valid =
          _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(std::min<int64_t>(left, 8))), lane);
      __m128i x[8];
      for (int i = 0; i < 8; ++i)
        x[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(counts[c + i][v][odd] + half * 8));
      transpose(x);
      for (int i = 0; i < 8; ++i) {
        const int64_t p = v * kLanes + half * 16 + 2 * i + odd;
        if (p >= pixels) break;
        const __m256i nnz = load(t.table + t.border[first + p] + channel);
        const __m256i sum = _mm256_sub_epi32(nnz, _mm256_slli_epi32(_mm256_cvtepu16_epi32(x[i]), 1));
        float* out = t.sums + t.target[first + p] + channel;
        if (left >= 8)
          _mm256_storeu_ps(out, _mm256_cvtepi32_ps(sum));
        else  // many cycles on some processors
          _mm256_maskstore_ps(out, valid, _mm256_cvtepi32_ps(sum));
      }
    }
  }
}

template <int kVectors>
void run_block(const Conv2dTile& t, int64_t first, int64_t tile, int64_t steps, const uint8_t* nibbles,
               const uint16_t* offsets) {
  alignas(64) Counts<kVectors> counts;
  const int64_t chunks = (steps + kChunk - 1) / kChunk, chunk = (steps + chunks - 1) / chunks;
  for (int64_t k = 0; k < steps; k += chunk) {
    for (int g = 0; g < kGroups; ++g)
      count_words<kVectors>(nibbles + k * kNibbles * kVectors * kLanes,
                            offsets + (g * steps + k) * kNibbles * kGroup, std::min(chunk, steps - k), k == 0,
                            counts + g * kGroup);
  }
  const int64_t pixels = std::min<int64_t>(t.pixels - first, kVectors * kLanes);
  if (t.sums)
    finish_sums<kVectors>(t, first, pixels, tile, counts);
  else
    finish_bits<kVectors>(t, first, pixels, tile, counts);
}

}  // namespace

void conv2d_64x32__avx2(const Conv2dTile& t) {
  static thread_local Scratch nibble_memory, offset_memory;
  int64_t steps = 0;
  for (int64_t i = 0; i < t.runs; ++i) steps += t.run[i].count;
  if (t.pixels <= kFewPixels || steps == 0 || steps * kWordBits > kMaxCount) return conv2d_8x8__avx2(t);

  auto* nibbles = nibble_memory.get<uint8_t>((t.pixels + kBlock - 1) / kBlock * kBlock * steps * kNibbles);
  auto* offsets = offset_memory.get<uint16_t>(steps * kNibbles * kTileChannels);
  // Blocks of two registers of pixels, then one, then pixels too few to fill one.
  const int64_t end2 = (t.pixels + kBlock - 1 - kLanes - kFewPixels) / kBlock * kBlock;
  const int64_t end1 = t.pixels - end2 > kFewPixels ? end2 + kLanes : end2;
  auto block = [&](int64_t first) { return nibbles + first * steps * kNibbles; };
  for (int64_t i = 0; i < end2; i += kBlock) split_block<2>(t, i, block(i));
  if (end1 > end2) split_block<1>(t, end2, block(end2));
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    look_up_weight(t, tile, steps, offsets);
    for (int64_t i = 0; i < end2; i += kBlock) run_block<2>(t, i, tile, steps, block(i), offsets);
    if (end1 > end2) run_block<1>(t, end2, tile, steps, block(end2), offsets);
  }
  if (end1 >= t.pixels) return;
  Conv2dTile rest = t;
  rest.pixels -= end1;
  rest.source += end1;
  rest.target += end1;
  rest.border += end1;
  conv2d_8x8__avx2(rest);
}

}  // namespace mbu
