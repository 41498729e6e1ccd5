// Drives the stem microkernels: copies the input rows of a band with their zeros around them into scratch,
// then goes through it row by row. Few channels side by side in memory are copied as they lie there, others
// channel by channel.
#include "cpu/stem/stem.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/stream/large_output.h"
#include "mbu/parallel.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

// Output pixels of a band: their input, a few channels of float32, shares the first-level cache with a tile.
constexpr int64_t kBandPixels = 1024;
// Multiply-adds (about 0.02 ns each) below which a second thread does not pay.
constexpr int64_t kGrain = 1000000;

// What the threads share. Kept by the calling thread between calls, so that it stops allocating.
struct Plan {
  Scratch affine_memory, threshold_memory, flip_memory;
  std::vector<int64_t> offset;  // per product
  float *affine, *threshold;
  Word* flip;
  bool past_caches;
  int64_t words, padded;
  int64_t band_rows, input_rows;  // of a band: output rows, input rows
  // Of the copied rows: planes, one per channel or one with all of them side by side; floats of a row and of
  // a pixel in a plane.
  int64_t copied_planes, row_stride, pixel;
};

void copy_padded(const float* from, int64_t rows, int64_t channels, int64_t padded, float tail, float* to) {
  for (int64_t row = 0; row < rows; ++row, from += channels, to += padded) {
    std::copy(from, from + channels, to);
    std::fill(to + channels, to + padded, tail);
  }
}

void make_plan(const StemParams& p, Plan& plan) {
  const Stream& s = p.stream;
  plan.words = words_of(p.out_channels);
  plan.padded = plan.words * kTileChannels;
  plan.band_rows = std::clamp<int64_t>(kBandPixels / p.output.w, 1, p.output.h);
  plan.input_rows = (plan.band_rows - 1) * p.stride.h + (p.kernel.h - 1) * p.dilation.h + 1;
  const int64_t columns = (p.output.w + kStemPixels - 1) / kStemPixels * kStemPixels;
  const bool together =
      p.stride_c == 1 && p.stride_w == p.channels && p.channels * p.stride.w <= kMostPixelStep;
  plan.pixel = together ? p.channels : 1;
  plan.copied_planes = p.channels / plan.pixel;
  plan.row_stride = ((columns - 1) * p.stride.w + (p.kernel.w - 1) * p.dilation.w + 1) * plan.pixel;
  const int64_t channel_stride = together ? 1 : plan.input_rows * plan.row_stride;
  plan.offset.clear();
  for (int64_t y = 0; y < p.kernel.h; ++y)
    for (int64_t x = 0; x < p.kernel.w; ++x)
      for (int64_t c = 0; c < p.channels; ++c)
        plan.offset.push_back(c * channel_stride + y * p.dilation.h * plan.row_stride +
                              x * p.dilation.w * plan.pixel);

  plan.affine = plan.affine_memory.get<float>(2 * s.steps * plan.padded);
  copy_padded(s.affine, 2 * s.steps, p.out_channels, plan.padded, 0, plan.affine);
  plan.threshold = plan.threshold_memory.get<float>(s.planes * plan.padded);
  // No value above the last channel reaches infinity: its sum is 0.
  copy_padded(s.threshold, s.planes, p.out_channels, plan.padded, INFINITY, plan.threshold);
  for (int64_t i = 0; s.output && i < s.planes * plan.padded; ++i)
    plan.threshold[i] = least_to_store(plan.threshold[i], s.type);
  plan.past_caches = leaves_caches(s, p.batch * p.output.h * p.output.w, p.out_channels);
  plan.flip = plan.flip_memory.get<Word>(s.planes * plan.words);
  for (int64_t i = 0; i < s.planes * plan.words; ++i)
    plan.flip[i] = p.flip ? p.flip[i] & valid_bits(i % plan.words, p.out_channels) : 0;
}

// Rows [y0, y0 + plan.input_rows) of image n, zeros where they lie outside it.
void copy_rows(const StemParams& p, const Plan& plan, int64_t n, int64_t y0, float* to) {
  const int64_t pixels = plan.row_stride / plan.pixel, left = std::min(p.padding.w, pixels);
  const int64_t inside = std::min(p.width, pixels - left), end = (left + inside) * plan.pixel;
  for (int64_t plane = 0; plane < plan.copied_planes; ++plane) {
    const float* from = p.input + n * p.stride_n + plane * p.stride_c;
    for (int64_t y = y0; y < y0 + plan.input_rows; ++y, to += plan.row_stride) {
      if (y < 0 || y >= p.height) {
        std::fill(to, to + plan.row_stride, 0.0f);
        continue;
      }
      const float* row = from + y * p.stride_h;
      float* first = std::fill_n(to, left * plan.pixel, 0.0f);
      if (p.stride_w == plan.pixel)
        std::copy_n(row, inside * plan.pixel, first);
      else
        for (int64_t x = 0; x < inside; ++x) first[x] = row[x * p.stride_w];
      std::fill(to + end, to + plan.row_stride, 0.0f);
    }
  }
}

void run_band(const StemParams& p, const CpuKernel& kernel, const Plan& plan, int64_t item) {
  static thread_local Scratch memory;
  const Stream& s = p.stream;
  const int64_t bands = (p.output.h + plan.band_rows - 1) / plan.band_rows;
  const int64_t n = item / bands, row0 = item % bands * plan.band_rows;
  const int64_t rows = std::min(plan.band_rows, p.output.h - row0);
  float* input = memory.get<float>(plan.copied_planes * plan.input_rows * plan.row_stride);
  copy_rows(p, plan, n, row0 * p.stride.h - p.padding.h, input);

  StemTile t{};
  t.pixels = p.output.w;
  t.pixel_step = p.stride.w * plan.pixel;
  t.offset = plan.offset.data();
  t.products = static_cast<int64_t>(plan.offset.size());
  t.steps = s.steps;
  t.padded = plan.padded;
  t.relu = s.relu;
  t.channels = p.out_channels;
  t.planes = s.planes;
  t.words = plan.words;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t pixel = (n * p.output.h + row0 + row) * p.output.w;
    t.input = input + row * p.stride.h * plan.row_stride;
    for (int64_t tile = 0; tile < plan.words; ++tile) {
      const int64_t first = tile * kTileChannels;
      t.weight = p.weight + tile * t.products * kTileChannels;
      t.affine = plan.affine + first;
      t.tile_channels = std::min(kTileChannels, p.out_channels - first);
      if (s.output) t.output = at(s.output, pixel * p.out_channels + first, s.type);
      t.type = s.type;
      t.past_caches = plan.past_caches;
      t.bits = s.bits + pixel * s.planes * plan.words + tile;
      t.threshold = plan.threshold + first;
      t.flip = plan.flip + tile;
      kernel.stem_tile(t);
    }
  }
}

}  // namespace

void stem(const StemParams& p) {
  if (p.batch * p.output.h * p.output.w * p.out_channels == 0) return;
  static thread_local Plan plan;
  make_plan(p, plan);
  const Plan& shared = plan;  // the calling thread's: `plan` itself would name each worker's own
  const CpuKernel& kernel = cpu_kernel();
  const int64_t items = p.batch * ((p.output.h + plan.band_rows - 1) / plan.band_rows);
  const int64_t work = plan.band_rows * p.output.w * plan.padded * static_cast<int64_t>(plan.offset.size());
  parallel_for(items, std::max<int64_t>(1, kGrain / std::max<int64_t>(work, 1)),
               [&](int64_t item) { run_band(p, kernel, shared, item); });
}

}  // namespace mbu
