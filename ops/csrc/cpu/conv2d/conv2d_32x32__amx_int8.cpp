// conv2d on AMX tiles: 32 pixels x 32 channels of 32-bit counters are four of the eight tiles; two more hold
// 64 inputs of 16 pixels each, two 64 inputs of 16 channels each.
//
// The band's bits become bytes once (grids.h): a cell is 64 channels, and 16 neighbours in a row are one tile
// load. So do the weights of 32 channels, before all pixels of the band meet them.
//
// Per tap and 64 channels: four tile loads and four tdpbssd, 64 cycles of multiplication (16 x 16 x 64
// products are 16 cycles). The counters of a block go through memory to the epilogue, which runs amid the
// multiplications of the block that follows.
#include "cpu/conv2d/amx_tiles.h"

namespace mbu {

bool conv2d_128x32__amx_int8(const Conv2dTile&);

namespace {

// Steps written out. A processor foresees the end of a loop that is short; that of a long one it guesses
// wrong, and then multiplies nothing until all steps that are under way have ended, some 900 cycles
// (ops/bench/amx_rates.cpp, from 36 steps on).
constexpr int kUnrolled = 4;
constexpr int64_t kBlockCounts = 2 * kTileCounts;
constexpr std::true_type kYes;
constexpr std::false_type kNo;

// A band made ready: what the tile loop reads.
struct Band {
  Scratch memory;
  Grids grids;
  std::vector<ByteStep> kept;  // steps of a tile
  int32_t* counts;             // [2 blocks][32 pixels][32 channels]
  int8_t *weights, *bytes;
  // Whose bytes these are, see Conv2dTile::same_input.
  uint64_t call = 0;
  int64_t index = 0;
  const Word* input = nullptr;
};

template <int kWords>
void expand_words(const Conv2dTile& t, const Grids& grids, int64_t word, int8_t* to) {
  constexpr int64_t kCell = kWords * kWordBits;
  const __m512i one = _mm512_set1_epi8(1);
  expand(t, grids, word, kCell, to, [&](const Word* from, int64_t stride, int64_t count, int8_t* row) {
    for_pixels<kWords>(stride, count, [&](int64_t i, const auto& bits) MBU_LAMBDA {
      _mm512_storeu_si512(row + i * kCell, _mm512_maskz_mov_epi8(bits(from), one));
    });
  });
}

void prepare(const Conv2dTile& t, Band& band) {
  const int64_t words = t.picture.words;
  plan_steps(t, kShape, band.grids);
  plan_tiles(t, kTilePixels, band.grids);
  const int64_t weights = static_cast<int64_t>(band.grids.steps.size()) * kStepBytes;
  // The last tile may start at the last pixel and read 15 more, behind the last grid.
  const int64_t bytes = (words + 1) / 2 * band.grids.pixels * kStepChannels + kTilePixels * kStepChannels;
  band.counts = band.memory.get<int32_t>(2 * kBlockCounts + (weights + bytes) / 4);
  band.weights = reinterpret_cast<int8_t*>(band.counts + 2 * kBlockCounts);
  const int8_t* before = band.bytes;
  band.bytes = band.weights + weights;
  if (t.same_input.call && t.same_input.call == band.call && t.same_input.band == band.index &&
      t.input == band.input && band.bytes == before)
    return;  // of the pass before
  band.call = t.same_input.call;
  band.index = t.same_input.band;
  band.input = t.input;
  int8_t* to = band.bytes;
  for (int64_t word = 0; word < words; word += 2, to += band.grids.pixels * kStepChannels) {
    if (word + 1 < words)
      expand_words<2>(t, band.grids, word, to);
    else
      expand_words<1>(t, band.grids, word, to);
  }
}

// The weights of the steps [step, end), one after another.
void expand_weights(const Word* weight, const ByteStep* step, const ByteStep* end, int8_t* to) {
  for (; step != end; ++step) {
    for (int64_t half = 0; half < kTileChannels; half += kTileChannels / 2) {
      for (const int64_t word : {step->first, step->second}) {
        const Planes planes = word < 0 ? Planes{} : load_planes(weight + word * 2 * kTileChannels + half);
        each<8>([&](int row)
                    MBU_LAMBDA { _mm512_store_si512(to + row * kStepChannels, weight_row(planes, row)); });
        to += 8 * kStepChannels;
      }
    }
  }
}

// Bits of counts that are at most `limits`, xor `flip`, to one word.
MBU_INLINE void finish_bits(__m512i low, __m512i high, __m512i limit0, __m512i limit1, Word flip, Word* out) {
  const __mmask16 a = _mm512_cmple_epi32_mask(low, limit0), b = _mm512_cmple_epi32_mask(high, limit1);
  if (flip) {
    *out = _cvtmask32_u32(_mm512_kunpackw(b, a)) ^ flip;
  } else {  // masks straight to memory: fewer instructions
    _store_mask16(reinterpret_cast<__mmask16*>(out), a);
    _store_mask16(reinterpret_cast<__mmask16*>(out) + 1, b);
  }
}

// The epilogue of a tile's pixels.
MBU_INLINE void finish_pixels(const Conv2dTile& t, const PixelTile& pixels, int64_t tile,
                              const int32_t* counts) {
  constexpr int kPixels = kTilePixels;
  const int64_t* target = t.target + pixels.pixel;
  const int32_t *border = t.border + pixels.pixel, *table = t.table + tile * kTileChannels;
  const auto low = [&](int p) MBU_LAMBDA { return load(counts + p * kTileChannels); };
  const auto high = [&](int p) MBU_LAMBDA { return load(counts + p * kTileChannels + 16); };
  if (t.stream || t.sums) {
    const bool whole = t.channels - tile * kTileChannels >= kTileChannels;
    const auto dots_of = [&](int p, const Floats* nnz, Floats* y)
                             MBU_LAMBDA { *y = fused(to_floats(low(p), high(p)), -2, *nnz); };
    if (pixels.border >= 0 && finish_alike<1>(t, &pixels.pixel, kPixels, tile, dots_of)) return;
    int64_t pixel = pixels.pixel;
    for (int p = 0; p < kPixels; ++p) {
      if (!(pixels.exists >> p & 1)) continue;
      if (whole)
        finish_floats<true>(t, pixel++, tile, low(p), high(p));
      else
        finish_floats<false>(t, pixel++, tile, low(p), high(p));
    }
    return;
  }
  int64_t word = tile;
  for (int64_t plane = 0; plane < t.planes; ++plane, word += t.out_words, table += t.channels_padded) {
    Word* bits = t.bits + word;
    const Word flip = t.flip[word];
    if (pixels.border >= 0) {  // most tiles; all of its pixels exist
      const __m512i limit0 = load(table + pixels.border), limit1 = load(table + pixels.border + 16);
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) finish_bits(low(p), high(p), limit0, limit1, flip, bits + target[p]);
      continue;
    }
    for (int p = 0, i = 0; p < kPixels; ++p) {
      if (!(pixels.exists >> p & 1)) continue;
      const int32_t* limit = table + border[i];
      finish_bits(low(p), high(p), load(limit), load(limit + 16), flip, bits + target[i++]);
    }
  }
}

void finish_tiles(const Conv2dTile& t, const PixelTile* pixels, int64_t count, int64_t tile,
                  const int32_t* counts) {
  for (const PixelTile* end = pixels + count; pixels != end; ++pixels, counts += kTileCounts)
    finish_pixels(t, *pixels, tile, counts);
}

// Counters of one or two tiles of pixels, `first` and `second` cells from `bytes`, after the steps [step,
// end), whose weights follow one another. `between` runs while the last steps multiply: the processor comes
// to it long before they have. The first tile's counters are stored ahead of the second's last products, so
// that the multiplier has work meanwhile.
template <bool kPair, bool kWide, class Between>
MBU_INLINE void run_block(const ByteStep* step, const ByteStep* end, const int8_t* bytes, int64_t first,
                          int64_t second, const int8_t* weight, int32_t* counts, const Between& between) {
  zero_counters<kPair>();
  const ByteStep* last = end - (step != end);
  const auto multiply = [&](int i) MBU_LAMBDA {
    const int8_t* input = bytes + step[i].input;
    const int64_t stride = step[i].stride;
    multiply_first<kWide>(input + first * stride, stride, weight + i * kStepBytes);
    if constexpr (kPair) multiply_second<kWide>(input + second * stride, stride);
  };
  for (; last - step >= kUnrolled; step += kUnrolled, weight += kUnrolled * kStepBytes)
    each<kUnrolled>(multiply);
  for (; step != last; ++step, weight += kStepBytes) multiply(0);
  const int64_t stride = last != end ? last->stride : 0;
  if (last != end) multiply_first<kWide>(bytes + last->input + first * stride, stride, weight);
  between();
  store_first<kWide>(counts);
  if constexpr (kPair) {
    if (last != end) multiply_second<kWide>(bytes + last->input + second * stride, stride);
    store_second<kWide>(counts);
  }
}

}  // namespace

void conv2d_32x32__amx_int8(const Conv2dTile& t) {
  if (conv2d_128x32__amx_int8(t)) return;
  static thread_local Band band;
  prepare(t, band);
  const TileUse use;
  const PixelTile *begin = band.grids.tiles.data(), *end = begin + band.grids.tiles.size();
  spread_fetches(t, static_cast<int64_t>(band.grids.tiles.size()));
  int32_t* counts = band.counts;
  int32_t* others = counts + kBlockCounts;
  for (int64_t tile = t.tile_begin; tile < t.tile_end; ++tile) {
    const auto& steps = steps_of_tile(t, band.grids, tile, band.kept);
    const ByteStep *step = steps.data(), *last = step + steps.size();
    expand_weights(t.weight + tile * t.weight_stride, step, last, band.weights);
    // A tile load is invisible to the compiler: the bytes must be in memory before the first.
    __asm__ volatile("" ::: "memory");
    const bool wide = t.channels - tile * kTileChannels > kTileChannels / 2;
    if (!wide) std::fill_n(band.counts, 2 * kBlockCounts, 0);  // half of them are left as they are
    int64_t unfinished = 0;  // tiles before `pixels` whose counters wait in `others`
    const PixelTile* pixels = begin;
    while (pixels != end) {
      const auto between = [&] {
        finish_tiles(t, pixels - unfinished, unfinished, tile, others);
        fetch_some(t);
      };
      const int64_t count = std::min<int64_t>(end - pixels, 2), first = pixels[0].start;
      const auto run = [&](auto two, auto all) {
        const int64_t second = two ? pixels[1].start : 0;
        run_block<two, all>(step, last, band.bytes, first, second, band.weights, counts, between);
      };
      if (wide)
        count == 2 ? run(kYes, kYes) : run(kNo, kYes);
      else
        count == 2 ? run(kYes, kNo) : run(kNo, kNo);
      pixels += count;
      unfinished = count;
      std::swap(counts, others);
    }
    finish_tiles(t, pixels - unfinished, unfinished, tile, others);
  }
}

}  // namespace mbu
