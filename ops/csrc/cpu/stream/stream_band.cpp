// One band of a convolution with a float result, some rows at a time: their dot products stay in cache
// between the convolution, which goes tile by tile, and what follows it, which goes through memory in order.
#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/stream/fetch_ahead.h"
#include "cpu/stream/large_output.h"
#include "cpu/stream/stream.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

// Dot products finished at a time, 192 KB of them, and pixels below which tiles would be cut too small.
constexpr int64_t kChunkDots = 48 * 1024, kChunkPixels = 96;

struct Memory {
  Scratch dots, target, words, threshold, flip, fitted, source, column, finished;
  std::vector<ResidualRun> runs;
  std::vector<const void*> shortcut;
  FetchAhead ahead;
  const void* fetched = nullptr;  // what `ahead` began with
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
      runs.push_back(
          {source->at(band.n * source->stride_n + source_row * source->stride_h + local * source->stride_c),
           source->type, source->stride_c, source->stride_h, source->stride_w, c, count, term == 0});
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
      const int64_t element = pixel * p.out_channels + first;
      const PackRow pack{at(s.output, element, s.type),     s.type,    channels, band.columns, 1,
                         band.column_step * p.out_channels, threshold, no_flip,  packed};
      kernel.pack(pack);
      Word* to = s.bits + (pixel * s.planes + plane) * words + tile_begin;
      for (int64_t i = 0; i < band.columns; ++i, to += band.column_step * s.planes * words)
        std::copy_n(packed + i * own_words, own_words, to);
    }
  }
}

int64_t terms_of(const Conv2dParams& p) {
  const Stream& s = *p.stream;
  return s.residuals ? std::max<int64_t>(s.residual_channels / p.out_channels, 1) : 0;
}

// Where the channels of each tile start in each term of the shortcut, in the band's image. False where the
// kernel cannot read the shortcut from there: a tile that two tensors share, other strides.
bool find_terms(const Conv2dParams& p, const StreamBand& band, int64_t tile_begin, int64_t tile_end,
                Memory& memory) {
  const Stream& s = *p.stream;
  const int64_t terms = terms_of(p);
  if (terms & (terms - 1)) return false;  // a share of 1/3 rounds, the trained one divides
  for (int64_t i = 0; i < s.residuals; ++i) {
    const StreamSource &a = s.residual[0], &b = s.residual[i];
    if (b.stride_c != 1 || a.type != b.type || a.stride_h != b.stride_h || a.stride_w != b.stride_w)
      return false;
  }
  memory.shortcut.assign(static_cast<size_t>(tile_end * terms), nullptr);
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    const int64_t first = tile * kTileChannels, channels = std::min(p.out_channels - first, kTileChannels);
    list_runs(s, band, 0, first, channels, p.out_channels, memory.runs);
    if (static_cast<int64_t>(memory.runs.size()) != terms) return false;
    for (int64_t i = 0; i < terms; ++i)
      memory.shortcut[static_cast<size_t>(tile * terms + i)] = memory.runs[static_cast<size_t>(i)].data;
  }
  return true;
}

// Along one axis, the first of a window. Divisions would be felt where there are many.
int64_t source_pixel(int64_t output, const Stream& s) {
  return (s.upsample == 1 ? output : output / s.upsample) * s.pool;
}

// Elements from there to each pixel of some rows.
void list_sources(const Stream& s, const StreamBand& band, int64_t row, int64_t rows, Memory& memory) {
  auto* column = memory.column.get<int64_t>(band.columns);
  auto* source = memory.source.get<int64_t>(rows * band.columns);
  for (int64_t i = 0; i < band.columns; ++i)
    column[i] = source_pixel(band.column + i * band.column_step, s) * s.residual[0].stride_w;
  for (int64_t r = row; r < row + rows; ++r, source += band.columns) {
    const int64_t first = source_pixel(band.row + r * band.row_step, s) * s.residual[0].stride_h;
    for (int64_t i = 0; i < band.columns; ++i) source[i] = first + column[i];
  }
}

// One row of the shortcut, fitted: to sum[pixel * stride].
void fit_row(const Conv2dParams& p, const CpuKernel& kernel, const StreamBand& band, int64_t row,
             int64_t first, int64_t channels, float* sum, Memory& memory) {
  const Stream& s = *p.stream;
  list_runs(s, band, band.row + row * band.row_step, first, channels, p.out_channels, memory.runs);
  kernel.add_residual({memory.runs.data(), static_cast<int64_t>(memory.runs.size()), channels, band.columns,
                       band.column, band.column_step, s.pool, s.upsample, static_cast<float>(terms_of(p)),
                       sum, channels});
}

// A part of a band, and how to get at what it writes.
struct Chunk {
  const StreamBand& band;
  int64_t row, rows, first, channels;
  float* finished;  // or null: into the output

  // Elements of the output, or of `finished`, to the first pixel of row r of the band.
  int64_t output(const Conv2dParams& p, int64_t r) const {
    if (finished) return (r - row) * band.columns * p.out_channels;
    return ((band.n * p.output.h + band.row + r * band.row_step) * p.output.w + band.column) * p.out_channels;
  }
};

// The rows of the shortcut that some rows of the result need, those that are there.
void list_fetches(const Conv2dParams& p, const Chunk& chunk, int64_t row, int64_t rows, FetchAhead& ahead) {
  const Stream& s = *p.stream;
  const StreamBand& band = chunk.band;
  ahead.clear();
  for (int64_t i = 0; i < s.residuals; ++i) {
    const StreamSource& source = s.residual[i];
    const int64_t columns = source_pixel((band.columns - 1) * band.column_step, s) + s.pool;
    int64_t last = -1;
    for (int64_t r = row; r < row + rows; ++r) {
      const int64_t output = band.row + r * band.row_step;
      if (output >= p.output.h) break;
      const int64_t from = source_pixel(output, s);
      if (from == last) continue;
      last = from;
      for (int64_t y = from; y < from + s.pool; ++y)
        ahead.add(source.at(band.n * source.stride_n + y * source.stride_h),
                  columns * source.stride_w * size_of(source.type));
    }
  }
}

// Calls for the chunk's shortcut all at once, in the order of memory, where that was not done amid the one
// before, and lists what to call for amid this one: the kernel goes through a shortcut tile by tile, which no
// hardware prefetcher keeps up with.
void fetch_shortcut(const Conv2dParams& p, const CpuKernel& kernel, const Chunk& chunk, Memory& memory) {
  list_fetches(p, chunk, chunk.row, chunk.rows, memory.ahead);
  if (memory.ahead.first() != memory.fetched) memory.ahead.all();
  list_fetches(p, chunk, chunk.row + chunk.rows, chunk.rows, memory.ahead);
  memory.fetched = memory.ahead.first();
}

// Of the next layer, as they apply before the result is rounded: [planes, out_channels], own channels only.
void list_thresholds(const Conv2dParams& p, int64_t first, int64_t channels, Memory& memory) {
  const Stream& s = *p.stream;
  float* threshold = memory.threshold.get<float>(s.planes * p.out_channels);
  for (int64_t plane = 0; plane < s.planes; ++plane) {
    const int64_t begin = plane * p.out_channels + first;
    for (int64_t c = begin; c < begin + channels; ++c) threshold[c] = least_to_store(s.threshold[c], s.type);
  }
}

// The kernel finishes the stream itself: it reads the shortcut where it lies, or from a fitted copy in cache.
void finish_in_kernel(const Conv2dParams& p, const CpuKernel& kernel, const Chunk& chunk, bool direct,
                      Conv2dTile& tile, Memory& memory) {
  const Stream& s = *p.stream;
  const int64_t begin = chunk.output(p, chunk.row);
  StreamEpilogue epilogue{};
  epilogue.affine = s.affine;
  epilogue.steps = s.steps;
  epilogue.relu = s.relu;
  epilogue.output = chunk.finished ? chunk.finished : at(s.output, begin, s.type);
  epilogue.type = s.type;
  epilogue.past_caches =
      !chunk.finished && leaves_caches(s, p.input.batch * p.output.h * p.output.w, p.out_channels);
  epilogue.share = 1;
  epilogue.pool = 1;
  if (s.planes) {
    epilogue.planes = s.planes;
    epilogue.words = words_of(p.out_channels);
    epilogue.bits = s.bits + begin / p.out_channels * s.planes * epilogue.words;
    epilogue.bits_target = chunk.band.bits_target;
    epilogue.threshold = memory.threshold.get<float>(0);
    epilogue.threshold_stride = p.out_channels;
  }
  if (s.residuals && direct) {
    fetch_shortcut(p, kernel, chunk, memory);
    epilogue.ahead = &memory.ahead;
    list_sources(s, chunk.band, chunk.row, chunk.rows, memory);
    epilogue.terms = terms_of(p);
    epilogue.shortcut_type = s.residual[0].type;
    epilogue.pool = s.pool;
    epilogue.pool_h = s.residual[0].stride_h;
    epilogue.pool_w = s.residual[0].stride_w;
    epilogue.share = 1 / static_cast<float>(epilogue.terms);
  } else if (s.residuals) {
    const int64_t columns = chunk.band.columns, pixels = chunk.rows * columns;
    auto* fitted = memory.fitted.get<float>(pixels * chunk.channels);
    auto* source = memory.source.get<int64_t>(pixels);
    for (int64_t r = 0; r < chunk.rows; ++r)
      fit_row(p, kernel, chunk.band, chunk.row + r, chunk.first, chunk.channels,
              fitted + r * columns * chunk.channels, memory);
    for (int64_t i = 0; i < pixels; ++i) source[i] = i * chunk.channels;
    memory.shortcut.assign(static_cast<size_t>(tile.tile_end), nullptr);
    for (int64_t i = tile.tile_begin; i < tile.tile_end; ++i)
      memory.shortcut[static_cast<size_t>(i)] = fitted + i * kTileChannels - chunk.first;
    epilogue.terms = 1;
  }
  epilogue.shortcut = memory.shortcut.data();
  epilogue.source = s.residuals ? memory.source.get<int64_t>(0) : nullptr;
  tile.stream = &epilogue;
  run_tiles(kernel, tile);
}

// The kernel leaves dot products in cache; rows are finished from there.
void finish_rows(const Conv2dParams& p, const CpuKernel& kernel, const Chunk& chunk, bool direct,
                 const Conv2dTile& tile, const float* dots, Memory& memory) {
  const Stream& s = *p.stream;
  run_tiles(kernel, tile);
  for (int64_t r = chunk.row; r < chunk.row + chunk.rows; ++r, dots += chunk.band.columns * chunk.channels) {
    const int64_t output = chunk.output(p, r) + chunk.first;
    const int64_t step = chunk.band.column_step;
    StreamRow row{};
    row.dots = dots;
    row.dots_stride = row.channels = chunk.channels;
    row.pixels = chunk.band.columns;
    row.affine = s.affine + chunk.first;
    row.steps = s.steps;
    row.affine_stride = p.out_channels;
    row.relu = s.relu;
    row.output = chunk.finished ? chunk.finished + output : at(s.output, output, s.type);
    row.type = s.type;
    row.output_stride = chunk.finished ? p.out_channels : step * p.out_channels;
    if (direct) {
      list_runs(s, chunk.band, chunk.band.row + r * chunk.band.row_step, chunk.first, chunk.channels,
                p.out_channels, memory.runs);
      const ResidualRun& run = memory.runs[0];
      row.residual_type = run.type;
      row.residual_stride = step * run.stride_w;
      row.residual = at(run.data, chunk.band.column * run.stride_w, run.type);
    } else if (s.residuals) {
      auto* fitted = memory.fitted.get<float>(chunk.band.columns * chunk.channels);
      fit_row(p, kernel, chunk.band, r, chunk.first, chunk.channels, fitted, memory);
      row.residual = fitted;
      row.residual_stride = chunk.channels;
    }
    kernel.finish_row(row);
  }
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
  const bool whole = kernel.expanded_bytes > 0;
  const int64_t chunk_rows =
      whole ? band.rows : std::clamp<int64_t>(chunk_pixels / band.columns, 1, band.rows);
  // Where finished rows go: into the output, or with a head into scratch, chunk after chunk.
  float* finished = s.head ? memory.finished.get<float>(chunk_rows * band.columns * p.out_channels) : nullptr;
  const Conv2dPicture& picture = band_tile.picture;
  Conv2dTile tile = band_tile;
  float* dots = nullptr;
  bool direct = s.residuals && find_terms(p, band, tile.tile_begin, tile.tile_end, memory);
  if (kernel.adds_stream) {
    list_thresholds(p, first, channels, memory);
  } else {
    list_runs(s, band, band.row, first, s.residuals ? channels : 0, p.out_channels, memory.runs);
    direct =
        direct && memory.runs.size() == 1 && s.upsample == 1 && s.pool == 1;  // one tensor, pixel by pixel
    dots = memory.dots.get<float>(chunk_rows * band.columns * channels);
    tile.sums = dots - first;
  }
  if (!kernel.adds_stream || s.head) {
    auto* target = memory.target.get<int64_t>(chunk_rows * band.columns);
    for (int64_t i = 0; i < chunk_rows * band.columns; ++i) target[i] = i * channels;
    tile.target = target;
  }
  for (int64_t row = 0; row < band.rows; row += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, band.rows - row);
    // The chunk is a band of its own: the same lists from its own first input row on.
    tile.pixels = rows * band.columns;
    tile.input = band_tile.input + row * picture.step_h * picture.row_stride;
    tile.picture.rows = picture.rows - (band.rows - rows) * picture.step_h;
    tile.border = band_tile.border + row * band.columns;
    const Chunk chunk{band, row, rows, first, channels, finished};
    if (kernel.adds_stream)
      finish_in_kernel(p, kernel, chunk, direct, tile, memory);
    else
      finish_rows(p, kernel, chunk, direct, tile, dots, memory);
    if (s.head) project_rows(p, kernel, band, row, rows, finished);
    if (s.planes && !kernel.adds_stream)
      pack_rows(p, kernel, band, row, rows, band_tile.tile_begin, band_tile.tile_end, memory);
  }
}

}  // namespace mbu
