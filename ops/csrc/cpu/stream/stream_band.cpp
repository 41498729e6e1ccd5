// One band of a convolution with a float result, some rows at a time: their dot products stay in cache
// between the convolution, which goes tile by tile, and what follows it, which goes through memory in order.
#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/stream/stream.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

// Dot products finished at a time, 192 KB of them, and pixels below which tiles would be cut too small.
constexpr int64_t kChunkDots = 48 * 1024, kChunkPixels = 96;

struct Memory {
  Scratch dots, target, words, threshold, flip, finished, head, head_bias;
  std::vector<ResidualRun> runs;
};

// The residual is the virtual concat of its tensors, fitted to the layer's channels: repeated where it has
// fewer, averaged over groups where it has more.
void list_runs(const Stream& s, const StreamBand& band, int64_t row, int64_t first, int64_t channels,
               int64_t out_channels, std::vector<ResidualRun>& runs) {
  runs.clear();
  const int64_t terms = std::max<int64_t>(s.residual_channels / out_channels, 1);
  const int64_t source_row = row / s.upsample * s.pool;
  for (int64_t term = 0; term < terms; ++term) {
    for (int64_t c = 0; c < channels;) {
      int64_t local = (first + c) % s.residual_channels + term * out_channels;
      const StreamSource* source = s.residual;
      for (; local >= source->channels; ++source) local -= source->channels;
      const int64_t count = std::min(channels - c, source->channels - local);
      runs.push_back({source->data + band.n * source->stride_n + source_row * source->stride_h +
                          local * source->stride_c,
                      source->stride_c, source->stride_h, source->stride_w, c, count, term == 0});
      c += count;
    }
  }
}

// The bits of finished rows, own tiles only: other threads may have the others.
void pack_rows(const Conv2dParams& p, const CpuKernel& kernel, const StreamBand& band, int64_t row,
               int64_t rows, int64_t tile_begin, int64_t tile_end, Memory& memory) {
  const Stream& s = *p.stream;
  const int64_t first = tile_begin * kTileChannels, words = words_of(p.out_channels);
  const int64_t channels = std::min(tile_end * kTileChannels, p.out_channels) - first;
  const int64_t own_words = tile_end - tile_begin;
  Word* packed = memory.words.get<Word>(band.columns * own_words);
  Word* no_flip = memory.flip.get<Word>(own_words);
  std::fill(no_flip, no_flip + own_words, Word{0});
  float* threshold = memory.threshold.get<float>(own_words * kWordBits);
  for (int64_t plane = 0; plane < s.planes; ++plane) {
    std::copy_n(s.threshold + plane * p.out_channels + first, channels, threshold);
    std::fill(threshold + channels, threshold + own_words * kWordBits, 0.0f);
    for (int64_t r = row; r < row + rows; ++r) {
      const int64_t pixel = (band.n * p.output.h + band.row + r * band.row_step) * p.output.w + band.column;
      const PackRow pack{s.output + pixel * p.out_channels + first, FloatType::f32, channels, band.columns, 1,
                         band.column_step * p.out_channels,         threshold,      no_flip,  packed};
      kernel.pack(pack);
      Word* to = s.bits + (pixel * s.planes + plane) * words + tile_begin;
      for (int64_t i = 0; i < band.columns; ++i, to += band.column_step * s.planes * words)
        std::copy_n(packed + i * own_words, own_words, to);
    }
  }
}

// The 1x1 convolution behind finished rows, `row` being the first of them.
void project_rows(const Conv2dParams& p, const CpuKernel& kernel, const StreamBand& band, int64_t row,
                  int64_t rows, const float* finished, Memory& memory) {
  const Stream& s = *p.stream;
  constexpr int64_t kPadding = 16;  // of classes: the longest vector of any kernel
  const int64_t padded = (s.classes + kPadding - 1) / kPadding * kPadding;
  float* bias = memory.head_bias.get<float>(padded);
  std::fill(bias, bias + padded, 0.0f);
  if (s.head_bias) std::copy_n(s.head_bias, s.classes, bias);
  float* transposed = nullptr;
  if (s.classes > kDotClasses) {
    transposed = memory.head.get<float>(padded * p.out_channels);
    std::fill(transposed, transposed + padded * p.out_channels, 0.0f);
    for (int64_t k = 0; k < s.classes; ++k)
      for (int64_t c = 0; c < p.out_channels; ++c)
        transposed[c * padded + k] = s.head[k * p.out_channels + c];
  }
  for (int64_t r = row; r < row + rows; ++r, finished += band.columns * p.out_channels) {
    const int64_t pixel = (band.n * p.output.h + band.row + r * band.row_step) * p.output.w + band.column;
    kernel.head_row({finished, band.columns, p.out_channels, s.head, transposed, s.classes, padded, bias,
                     s.logits + pixel * s.classes, band.column_step * s.classes});
  }
}

// Whether the shortcut is one tensor that lies in memory as the output does.
bool lies_like_output(const Conv2dParams& p) {
  const Stream& s = *p.stream;
  const StreamSource& r = s.residual[0];
  const int64_t row = p.output.w * p.out_channels;
  return s.residuals == 1 && s.residual_channels == p.out_channels && s.pool == 1 && s.upsample == 1 &&
         r.stride_c == 1 && r.stride_w == p.out_channels && r.stride_h == row &&
         r.stride_n == p.output.h * row;
}

}  // namespace

void stream_band(const Conv2dParams& p, const CpuKernel& kernel, const Conv2dTile& band_tile,
                 const StreamBand& band) {
  static thread_local Memory memory;
  const Stream& s = *p.stream;
  const int64_t first = band_tile.tile_begin * kTileChannels;
  const int64_t channels = std::min(band_tile.tile_end * kTileChannels, p.out_channels) - first;
  const int64_t chunk_pixels = std::max(kChunkPixels, kChunkDots / channels);
  // A kernel that rewrites its input would do so twice for rows that chunks share.
  const bool whole = kernel.layout == WeightLayout::int8;
  const int64_t chunk_rows =
      whole ? band.rows : std::clamp<int64_t>(chunk_pixels / band.columns, 1, band.rows);
  // Where finished rows go: into the output, or with a head into scratch, chunk after chunk.
  float* finished = s.head ? memory.finished.get<float>(chunk_rows * band.columns * p.out_channels) : nullptr;
  const auto offset = [&](int64_t row) {
    if (s.head) return row % chunk_rows * band.columns * p.out_channels;
    const int64_t pixel = (band.n * p.output.h + band.row + row * band.row_step) * p.output.w + band.column;
    return pixel * p.out_channels;
  };
  float* output = s.head ? finished : s.output;
  const int64_t pixel_stride = s.head ? p.out_channels : band.column_step * p.out_channels;
  // A shortcut that has to be fitted first is put where the result will be.
  const bool fitted = s.residuals && (s.head || !lies_like_output(p));
  const float* residual = fitted ? output : s.residuals ? s.residual[0].data : nullptr;
  const float terms = static_cast<float>(std::max<int64_t>(s.residual_channels / p.out_channels, 1));

  const Conv2dPicture& picture = band_tile.picture;
  Conv2dTile tile = band_tile;
  float* dots = nullptr;
  if (kernel.adds_stream) {
    tile.affine = s.affine;
    tile.steps = s.steps;
    tile.relu = s.relu;
  } else {
    dots = memory.dots.get<float>(chunk_rows * band.columns * channels);
    tile.sums = dots - first;
  }
  if (!kernel.adds_stream || s.head) {
    auto* target = memory.target.get<int64_t>(chunk_rows * band.columns);
    for (int64_t i = 0; i < chunk_rows * band.columns; ++i) target[i] = i * channels;
    tile.target = target;
  }

  for (int64_t row = 0; row < band.rows; row += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, band.rows - row), skipped = row * band.columns;
    for (int64_t r = row; fitted && r < row + rows; ++r) {
      list_runs(s, band, band.row + r * band.row_step, first, channels, p.out_channels, memory.runs);
      kernel.add_residual({memory.runs.data(), static_cast<int64_t>(memory.runs.size()), channels,
                           band.columns, band.column, band.column_step, s.pool, s.upsample, terms,
                           output + offset(r) + first, pixel_stride});
    }
    // The chunk is a band of its own: the same lists from its own first input row on.
    tile.pixels = rows * band.columns;
    tile.input = band_tile.input + row * picture.step_h * picture.row_stride;
    tile.picture.rows = picture.rows - (band.rows - rows) * picture.step_h;
    tile.border = band_tile.border + skipped;
    if (kernel.adds_stream) {
      tile.sums = output + offset(row);
      tile.residual = residual ? residual + offset(row) : nullptr;
    }
    run_tiles(kernel, tile);
    for (int64_t r = row; !kernel.adds_stream && r < row + rows; ++r) {
      const float* row_dots = dots + (r - row) * band.columns * channels;
      const float* added = residual ? residual + offset(r) + first : nullptr;
      kernel.finish_row({row_dots, channels, added, pixel_stride, band.columns, channels, s.affine + first,
                         s.steps, p.out_channels, s.relu, output + offset(r) + first, pixel_stride});
    }
    if (s.head) project_rows(p, kernel, band, row, rows, finished, memory);
    if (s.planes) pack_rows(p, kernel, band, row, rows, band_tile.tile_begin, band_tile.tile_end, memory);
  }
}

}  // namespace mbu
