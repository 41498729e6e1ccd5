// Drives pack and unpack: prepares padded thresholds and flips, then one call per run of pixels.
#include <algorithm>
#include <bit>
#include <limits>

#include "cpu/kernels.h"
#include "mbu/parallel.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

constexpr int64_t kPixelsPerCall = 4096;
// Input elements (about 0.1 ns each) below which a second thread does not pay.
constexpr int64_t kGrain = 200000;

struct Constants {
  Scratch threshold, flip;  // of each image
};

// A plane of H x W pixels as rows: one long row where the rows follow one another in memory, then cut into
// pieces that are small enough to share among threads.
struct Rows {
  int64_t rows, pixels, pieces;

  Rows(int64_t height, int64_t width, bool joined) {
    rows = joined ? 1 : height;
    pixels = joined ? height * width : width;
    pieces = (pixels + kPixelsPerCall - 1) / kPixelsPerCall;
  }
};

// Every float in order, negative zero and zero as one: ordered(-1) is the largest negative number.
float ordered(int64_t position) {
  const auto magnitude = static_cast<uint32_t>(position < 0 ? -position : position);
  const float value = std::bit_cast<float>(magnitude);
  return position < 0 ? -value : value;
}

struct Limit {
  float threshold;
  bool flip;
};

// (x >= threshold) ^ flip is (gate * x >= wanted), rounding included, for every finite x. The product is
// monotone in x, so the float at which the bit changes is found by bisection.
Limit limit_of(float gate, float wanted) {
  constexpr int64_t kInfinity = 0x7f800000;
  const auto is_set = [&](int64_t position) { return gate * ordered(position) >= wanted; };
  int64_t low = -kInfinity + 1, high = kInfinity - 1;
  const bool first = is_set(low);
  if (is_set(high) == first) return {-std::numeric_limits<float>::infinity(), !first};
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (is_set(middle) == first ? low : high) = middle;
  }
  return {ordered(high), first};
}

// Thresholds and flips of image n, of whole words.
void fill_constants(const PackParams& p, int64_t n, float* threshold, Word* flip) {
  const int64_t words = words_of(p.channels);
  std::fill(threshold, threshold + words * kWordBits, 0.0f);
  if (p.threshold) std::copy(p.threshold, p.threshold + p.channels, threshold);
  for (int64_t k = 0; k < words; ++k) flip[k] = p.flip ? p.flip[k] & valid_bits(k, p.channels) : 0;
  if (!p.gate) return;
  for (int64_t c = 0; c < p.channels; ++c) {
    const Limit limit = limit_of(p.gate[n * p.channels + c], threshold[c]);
    threshold[c] = limit.threshold;
    flip[c / kWordBits] ^= static_cast<Word>(limit.flip) << (c % kWordBits);
  }
}

}  // namespace

void pack(const PackParams& p) {
  const int64_t words = words_of(p.channels);
  if (p.batch * p.height * p.width * words == 0) return;
  static thread_local Constants constants;
  const int64_t images = p.gate ? p.batch : 1;  // that have thresholds of their own
  float* threshold = constants.threshold.get<float>(images * words * kWordBits);
  Word* flip = constants.flip.get<Word>(images * words);
  for (int64_t n = 0; n < images; ++n)
    fill_constants(p, n, threshold + n * words * kWordBits, flip + n * words);

  const Rows rows(p.height, p.width, p.stride_h == p.width * p.stride_w);
  const int64_t items = p.batch * rows.rows * rows.pieces;
  const int64_t grain = std::max<int64_t>(1, kGrain / (std::min(rows.pixels, kPixelsPerCall) * p.channels));
  parallel_for(items, grain, [&](int64_t item) {
    const int64_t piece = item % rows.pieces, row = item / rows.pieces % rows.rows;
    const int64_t n = item / rows.pieces / rows.rows, first = piece * kPixelsPerCall;
    const int64_t offset = n * p.stride_n + row * p.stride_h + first * p.stride_w;
    PackRow job{};
    job.input = at(p.input, offset, p.type);
    job.type = p.type;
    job.channels = p.channels;
    job.pixels = std::min(kPixelsPerCall, rows.pixels - first);
    job.stride_c = p.stride_c;
    job.stride_w = p.stride_w;
    job.threshold = threshold + (p.gate ? n * words * kWordBits : 0);
    job.flip = flip + (p.gate ? n * words : 0);
    job.output = p.output + ((n * rows.rows + row) * rows.pixels + first) * words;
    cpu_kernel().pack(job);
  });
}

void unpack(const UnpackParams& p) {
  const PackedImage& in = p.input;
  if (in.batch * in.height * in.width * p.channels == 0) return;
  const Rows rows(in.height, in.width, in.stride_h == in.width * in.stride_w);
  const int64_t items = in.batch * rows.rows * rows.pieces;
  const int64_t grain = std::max<int64_t>(1, kGrain / (std::min(rows.pixels, kPixelsPerCall) * p.channels));
  parallel_for(items, grain, [&](int64_t item) {
    const int64_t piece = item % rows.pieces, row = item / rows.pieces % rows.rows;
    const int64_t n = item / rows.pieces / rows.rows, first = piece * kPixelsPerCall;
    UnpackRow job{};
    job.input = in.data + n * in.stride_n + row * in.stride_h + first * in.stride_w;
    job.channels = p.channels;
    job.pixels = std::min(kPixelsPerCall, rows.pixels - first);
    job.stride_w = in.stride_w;
    job.output = p.output + ((n * rows.rows + row) * rows.pixels + first) * p.channels;
    cpu_kernel().unpack(job);
  });
}

}  // namespace mbu
