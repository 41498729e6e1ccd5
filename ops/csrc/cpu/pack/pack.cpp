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
// Floats that several planes read one after the other, and pixels that a call is worth.
constexpr int64_t kCached = 65536, kFewest = 64;
// Input elements (about 0.1 ns each) below which a second thread does not pay.
constexpr int64_t kGrain = 200000;

struct Constants {
  Scratch threshold, flip;  // of each image
};

// A plane of H x W pixels as rows: one long row where the rows follow one another in memory, then cut into
// pieces that are small enough to share among threads.
struct Rows {
  int64_t rows, pixels, pieces;

  Rows(int64_t height, int64_t width, bool joined, int64_t most = kPixelsPerCall) {
    rows = joined ? 1 : height;
    pixels = joined ? height * width : width;
    pieces = (pixels + most - 1) / most;
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

// Thresholds and flips of a plane of image n, of whole words.
void fill_constants(const PackParams& p, int64_t n, int64_t plane, float* threshold, Word* flip) {
  const int64_t words = words_of(p.channels);
  std::fill(threshold, threshold + words * kWordBits, 0.0f);
  if (p.threshold) std::copy_n(p.threshold + plane * p.channels, p.channels, threshold);
  for (int64_t k = 0; k < words; ++k)
    flip[k] = p.flip ? p.flip[plane * words + k] & valid_bits(k, p.channels) : 0;
  if (!p.gate) return;
  for (int64_t c = 0; c < p.channels; ++c) {
    const Limit limit = limit_of(p.gate[n * p.channels + c], threshold[c]);
    threshold[c] = limit.threshold;
    flip[c / kWordBits] ^= static_cast<Word>(limit.flip) << (c % kWordBits);
  }
}

// Every plane of a run of pixels while their floats are in cache. `job` has the first plane's constants,
// those of the others lie behind them.
void pack_planes(const CpuKernel& kernel, PackRow job, int64_t planes, Word* output) {
  static thread_local Scratch scratch;
  const int64_t words = words_of(job.channels);
  job.output = planes == 1 ? output : scratch.get<Word>(job.pixels * words);
  for (int64_t plane = 0; plane < planes; ++plane, job.threshold += words * kWordBits, job.flip += words) {
    kernel.pack(job);
    if (planes == 1) return;
    for (int64_t i = 0; i < job.pixels; ++i)
      for (int64_t k = 0; k < words; ++k)
        output[(i * planes + plane) * words + k] = job.output[i * words + k];
  }
}

}  // namespace

void pack(const PackParams& p) {
  const int64_t words = words_of(p.channels), row_words = p.planes * words;
  if (p.batch * p.height * p.width * row_words == 0) return;
  const CpuKernel& kernel = cpu_kernel();
  static thread_local Constants constants;
  const int64_t images = p.gate ? p.batch : 1;  // that have thresholds of their own
  float* threshold = constants.threshold.get<float>(images * row_words * kWordBits);
  Word* flip = constants.flip.get<Word>(images * row_words);
  for (int64_t i = 0; i < images * p.planes; ++i)
    fill_constants(p, i / p.planes, i % p.planes, threshold + i * words * kWordBits, flip + i * words);

  const int64_t most =
      p.planes == 1 ? kPixelsPerCall : std::clamp(kCached / p.channels, kFewest, kPixelsPerCall);
  const Rows rows(p.height, p.width, p.stride_h == p.width * p.stride_w, most);
  const int64_t items = p.batch * rows.rows * rows.pieces;
  const int64_t grain = std::max<int64_t>(1, kGrain / (std::min(rows.pixels, most) * p.channels * p.planes));
  parallel_for(items, grain, [&](int64_t item) {
    const int64_t piece = item % rows.pieces, row = item / rows.pieces % rows.rows;
    const int64_t n = item / rows.pieces / rows.rows, first = piece * most;
    const int64_t offset = n * p.stride_n + row * p.stride_h + first * p.stride_w;
    PackRow job{};
    job.input = at(p.input, offset, p.type);
    job.type = p.type;
    job.channels = p.channels;
    job.pixels = std::min(most, rows.pixels - first);
    job.stride_c = p.stride_c;
    job.stride_w = p.stride_w;
    job.threshold = threshold + (p.gate ? n * row_words * kWordBits : 0);
    job.flip = flip + (p.gate ? n * row_words : 0);
    Word* output = p.output + ((n * rows.rows + row) * rows.pixels + first) * row_words;
    pack_planes(kernel, job, p.planes, output);
  });
}

void unpack(const UnpackParams& p) {
  const PackedImage& in = p.input;
  if (in.batch * in.height * in.width * p.channels == 0) return;
  const CpuKernel& kernel = cpu_kernel();
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
    kernel.unpack(job);
  });
}

}  // namespace mbu
