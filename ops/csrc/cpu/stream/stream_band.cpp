// One band of a convolution with a float result: some rows at a time, tile by tile, so that dot products,
// residual and result of a tile stay in cache between the convolution and what follows it.
#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/stream/stream.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

// Pixels finished at a time: their dot products and residual of one tile are 48 KB.
constexpr int64_t kChunkPixels = 192;

struct Memory {
  Scratch dots, residual, target, words, threshold, flip;
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
void pack_rows(const Conv2dParams& p, const StreamBand& band, int64_t row, int64_t rows, int64_t tile_begin,
               int64_t tile_end, Memory& memory) {
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
      cpu_kernel().pack(pack);
      Word* to = s.bits + (pixel * s.planes + plane) * words + tile_begin;
      for (int64_t i = 0; i < band.columns; ++i, to += band.column_step * s.planes * words)
        std::copy_n(packed + i * own_words, own_words, to);
    }
  }
}

}  // namespace

void stream_band(const Conv2dParams& p, const Conv2dTile& band_tile, const StreamBand& band) {
  static thread_local Memory memory;
  const Stream& s = *p.stream;
  const CpuKernel& kernel = cpu_kernel();
  const int64_t chunk_rows = std::clamp<int64_t>(kChunkPixels / band.columns, 1, band.rows);
  const int64_t chunk = chunk_rows * band.columns;
  float* dots = memory.dots.get<float>(chunk * kTileChannels);
  float* residual = memory.residual.get<float>(band.columns * kTileChannels);
  auto* target = memory.target.get<int64_t>(chunk);
  for (int64_t i = 0; i < chunk; ++i) target[i] = i * kTileChannels;

  for (int64_t row = 0; row < band.rows; row += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, band.rows - row), skipped = row * band.columns;
    for (int64_t t = band_tile.tile_begin; t < band_tile.tile_end; ++t) {
      const int64_t first = t * kTileChannels, channels = std::min(p.out_channels - first, kTileChannels);
      Conv2dTile tile = band_tile;
      tile.pixels = rows * band.columns;
      tile.source += skipped;
      tile.border += skipped;
      tile.target = target;
      tile.tile_begin = t;
      tile.tile_end = t + 1;
      tile.sums = dots - first;
      kernel.conv2d(tile);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t out_row = band.row + (row + r) * band.row_step;
        if (s.residuals) {
          list_runs(s, band, out_row, first, channels, p.out_channels, memory.runs);
          const float terms = static_cast<float>(std::max<int64_t>(s.residual_channels / p.out_channels, 1));
          kernel.add_residual({memory.runs.data(), static_cast<int64_t>(memory.runs.size()), band.columns,
                               band.column, band.column_step, s.pool, s.upsample, terms, residual});
        }
        const int64_t pixel = (band.n * p.output.h + out_row) * p.output.w + band.column;
        kernel.finish_row({dots + r * band.columns * kTileChannels, s.residuals ? residual : nullptr,
                           band.columns, channels, s.affine + first, s.steps, p.out_channels, s.relu,
                           s.output + pixel * p.out_channels + first, band.column_step * p.out_channels});
      }
    }
    if (s.planes) pack_rows(p, band, row, rows, band_tile.tile_begin, band_tile.tile_end, memory);
  }
}

}  // namespace mbu
