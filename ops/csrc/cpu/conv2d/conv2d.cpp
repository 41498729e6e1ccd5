// Drives the conv2d microkernels: plans the passes, fills the epilogue table, cuts the work into bands.
//
// A pass is one phase of each axis (axis.h): 1 pass for a convolution, stride_h * stride_w for a transposed
// one. A band is some rows of one pass of one image. Where taps can fall outside the input, or where the
// input is several images joined, the band's input is first gathered into scratch with a ring of zero bits
// around it (gather.h). Bits are small, so that copy costs about 1 % of the arithmetic, and the microkernel
// needs no border case and sees one image. A zero bit means -1; where the layer pads
// with exact zeros, the sum is put right per border class:
//
//   dot = dot_with_ring + sum over the missing taps of (sum of the tap's weights)
//
// which the epilogue table holds, so the correction is free for every pixel.
#include <algorithm>
#include <atomic>

#include "cpu/conv2d/axis.h"
#include "cpu/conv2d/epilogue_table.h"
#include "cpu/conv2d/gather.h"
#include "cpu/kernels.h"
#include "cpu/stream/stream.h"
#include "mbu/parallel.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

// Pixels of a band: enough to spread the cost of the lists, few enough that input rows, lists and one weight
// tile share a first-level cache, and that threads find several bands. 256 to 4096 took the same time.
constexpr int64_t kBandPixels = 768;
// Rows that a kernel which expands its input may compute together.
constexpr int64_t kRowsTogether = 4;
// Tile-words (32 channels x 1 word x 1 pixel, about a nanosecond) below which a second thread does not pay.
constexpr int64_t kGrain = 20000;

struct Pass {
  const AxisPhase *y, *x;
  int64_t table;  // where the pass starts in the epilogue table
  bool ring;
  int64_t ring_stride;       // words of a scratch row
  int64_t band_rows, bands;  // rows of a band, bands per image
  int64_t first_item;
  size_t first_run, runs;  // in Plan::runs
  size_t first_tile;       // in Plan::tile_runs, where the tiles' runs differ
  size_t first_tap, taps;  // in Plan::taps
};

// Everything the threads share. Kept by the calling thread between calls, so that it stops allocating.
struct Plan {
  Axis y, x;
  Gather gather;
  std::vector<Pass> passes;
  std::vector<Conv2dRun> runs;
  std::vector<size_t> tile_runs;  // of each pass: where each tile's runs begin, and where the last one's end
  std::vector<Conv2dTap> taps;
  Scratch table_memory, flip_memory;
  int32_t* table;
  Word* flip;
  int64_t tiles, splits, items;
  uint64_t call;  // a number of its own for every call
};

// What a thread keeps for the band it works on. The offsets of a band's pixels are the same for every band of
// a pass, so they are listed once per thread and pass.
struct BandMemory {
  Scratch ring, border, offsets;
  const int64_t *source, *target, *bits_target;
  uint64_t call = 0;
  const Pass* pass = nullptr;

  // `bits_pixel`: words of an output pixel that a float stream leaves as bits beside it.
  void list_pixels(const Plan& plan, const Pass& of, int64_t step_h, int64_t step_w, int64_t out_row,
                   int64_t out_pixel, int64_t bits_pixel) {
    if (call == plan.call && pass == &of) return;
    call = plan.call;
    pass = &of;
    const int64_t pixels = of.band_rows * of.x->outputs;
    auto* list = offsets.get<int64_t>((bits_pixel ? 3 : 2) * pixels);
    source = list;
    target = list + pixels;
    bits_target = target + pixels;
    for (int64_t row = 0; row < of.band_rows; ++row) {
      for (int64_t column = 0; column < of.x->outputs; ++column, ++list) {
        const int64_t output = row * of.y->out_step * out_row + column * of.x->out_step;
        list[0] = row * step_h + column * step_w;
        list[pixels] = output * out_pixel;
        if (bits_pixel) list[2 * pixels] = output * bits_pixel;
      }
    }
  }
};

std::atomic<uint64_t> calls{0};

bool reads_outside(const AxisPhase& phase, int64_t input) {
  return phase.input_begin(0) < 0 || phase.input_end(phase.outputs - 1) > input;
}

// What a float stream holds in the same cache, for each output pixel: its shortcut, and what a head reads.
int64_t stream_bytes(const Conv2dParams& p) {
  if (!p.stream) return 0;
  int64_t bytes = p.stream->head ? p.out_channels * static_cast<int64_t>(sizeof(float)) : 0;
  for (int64_t i = 0; i < p.stream->residuals; ++i) {
    const StreamSource& source = p.stream->residual[i];
    const int64_t size = source.type == FloatType::bf16 ? sizeof(Bfloat16) : sizeof(float);
    bytes += source.channels * size * p.stream->pool * p.stream->pool;
  }
  return bytes;
}

int64_t band_pixels(const Conv2dParams& p, const CpuKernel& kernel, const AxisPhase& y, const AxisPhase& x) {
  if (!kernel.expanded_bytes) return kBandPixels;
  // An output pixel needs as many input pixels as the step has, but none that no tap meets.
  auto inputs = [](const AxisPhase& axis) {
    return std::clamp<int64_t>(static_cast<int64_t>(axis.taps.size()), 1, axis.step);
  };
  const int64_t bytes = p.weight.header().tile_words * kWordBits * inputs(y) * inputs(x);
  return kernel.expanded_bytes / std::max(bytes, bytes / 2 + stream_bytes(p));
}

// The words of each tap as runs, joined where they touch; of a `tile` that is not -1, those present in it.
void list_runs(const Conv2dParams& p, const Pass& pass, int64_t stride_h, int64_t stride_w, int64_t tile,
               Plan& plan) {
  const int64_t words = p.weight.header().tile_words;
  const size_t first = plan.runs.size();
  auto add = [&](int64_t source, int64_t weight, int64_t count) {
    if (plan.runs.size() > first) {
      Conv2dRun& run = plan.runs.back();
      if (run.source + run.count == source && run.weight + run.count * 2 * kTileChannels == weight) {
        run.count += count;
        return;
      }
    }
    plan.runs.push_back({source, weight, count});
  };
  for (size_t i = pass.first_tap; i < plan.taps.size(); ++i) {
    const Conv2dTap& tap = plan.taps[i];
    const int64_t source = tap.row * stride_h + tap.column * stride_w, word = tap.kernel * words;
    if (tile < 0) add(source, word * 2 * kTileChannels, words);
    for (int64_t k = 0; tile >= 0 && k < words; ++k)
      if (p.weight.is_present(tile, word + k)) add(source + k, (word + k) * 2 * kTileChannels, 1);
  }
}

int64_t through(int64_t count, int64_t parts) {
  return (count + parts - 1) / parts;
}

void plan_pass(const Conv2dParams& p, const CpuKernel& kernel, Pass& pass, Plan& plan) {
  const AxisPhase &y = *pass.y, &x = *pass.x;
  const PackedImage& in = p.input;
  const bool taps = !y.taps.empty() && !x.taps.empty();
  pass.ring = taps && (p.parts || reads_outside(y, in.height) || reads_outside(x, in.width));
  pass.ring_stride = (x.input_end(x.outputs - 1) - x.input_begin(0)) * in.words;
  const int64_t stride_h = pass.ring ? pass.ring_stride : in.stride_h;
  const int64_t stride_w = pass.ring ? in.words : in.stride_w;
  pass.first_tap = plan.taps.size();
  for (const AxisTap& ty : y.taps)
    for (const AxisTap& tx : x.taps)
      plan.taps.push_back({ty.offset - y.first, tx.offset - x.first, ty.kernel * p.kernel.w + tx.kernel});
  pass.first_run = plan.runs.size();
  pass.first_tile = plan.tile_runs.size();
  if (p.weight.header().skips && !kernel.expanded_bytes) {
    for (int64_t tile = 0; tile < plan.tiles; ++tile) {
      plan.tile_runs.push_back(plan.runs.size() - pass.first_run);
      list_runs(p, pass, stride_h, stride_w, tile, plan);
    }
    plan.tile_runs.push_back(plan.runs.size() - pass.first_run);
  } else {
    list_runs(p, pass, stride_h, stride_w, -1, plan);
  }
  pass.runs = plan.runs.size() - pass.first_run;
  pass.taps = plan.taps.size() - pass.first_tap;
  pass.band_rows = std::clamp<int64_t>(band_pixels(p, kernel, y, x) / x.outputs, 1, y.outputs);
  pass.bands = through(y.outputs, pass.band_rows);
  // Of bands whose input becomes bytes, as many for every thread, with rows that are computed together.
  const int64_t together = kernel.expanded_bytes ? kRowsTogether : 1;
  if (together > 1 && pass.bands > 1) pass.bands = through(pass.bands, num_threads()) * num_threads();
  pass.band_rows = through(through(y.outputs, pass.bands), together) * together;
  pass.band_rows = std::min(pass.band_rows, y.outputs);
  pass.bands = through(y.outputs, pass.band_rows);
}

void make_plan(const Conv2dParams& p, const CpuKernel& kernel, Plan& plan) {
  plan.y.plan({p.input.height, p.output.h, p.kernel.h, p.stride.h, p.padding.h, p.dilation.h, p.transposed,
               p.zero_padding});
  plan.x.plan({p.input.width, p.output.w, p.kernel.w, p.stride.w, p.padding.w, p.dilation.w, p.transposed,
               p.zero_padding});
  plan.gather.plan(p);
  const int64_t padded = p.weight.padded_channels(), planes = p.bits ? p.planes : 1;
  plan.call = calls.fetch_add(1, std::memory_order_relaxed) + 1;
  plan.tiles = padded / kTileChannels;
  plan.passes.clear();
  plan.runs.clear();
  plan.tile_runs.clear();
  plan.taps.clear();
  int64_t table = 0, bands = 0;
  for (int64_t i = 0; i < plan.y.count; ++i) {
    for (int64_t j = 0; j < plan.x.count; ++j) {
      Pass pass{};
      pass.y = &plan.y.phases[static_cast<size_t>(i)];
      pass.x = &plan.x.phases[static_cast<size_t>(j)];
      pass.table = table;
      table += int64_t{pass.y->classes} * pass.x->classes * planes * padded;
      plan_pass(p, kernel, pass, plan);
      bands += pass.bands * p.input.batch;
      plan.passes.push_back(pass);
    }
  }
  // Few bands and many threads: let several threads share a band, each with its own channel tiles; no more of
  // them where each makes bytes of the input. A head needs all channels of a pixel at once.
  const bool whole = num_threads() == 1 || (p.stream && p.stream->head);
  const int64_t wanted = whole ? 1 : (kernel.expanded_bytes ? 1 : 4) * num_threads();
  plan.splits = std::clamp<int64_t>(through(wanted, bands), 1, plan.tiles);
  plan.items = 0;
  for (Pass& pass : plan.passes) {
    pass.first_item = plan.items;
    plan.items += pass.bands * p.input.batch * plan.splits;
  }
  plan.table = plan.table_memory.get<int32_t>(table);
  for (const Pass& pass : plan.passes)
    fill_table(p, kernel.expanded_bytes > 0, *pass.y, *pass.x, plan.table + pass.table);
  if (p.bits) {
    plan.flip = plan.flip_memory.get<Word>(planes * plan.tiles);
    for (int64_t i = 0; i < planes * plan.tiles; ++i)
      plan.flip[i] = p.flip[i] & valid_bits(i % plan.tiles, p.out_channels);
  }
}

void run_item(const Conv2dParams& p, const CpuKernel& kernel, const Plan& plan, int64_t item) {
  static thread_local BandMemory memory;
  size_t index = plan.passes.size() - 1;
  while (plan.passes[index].first_item > item) --index;
  const Pass& pass = plan.passes[index];
  const AxisPhase &y = *pass.y, &x = *pass.x;
  const PackedImage& in = p.input;

  item -= pass.first_item;
  const int64_t split = item % plan.splits, band = item / plan.splits % pass.bands;
  const int64_t n = item / plan.splits / pass.bands;
  const int64_t row0 = band * pass.band_rows, row1 = std::min(row0 + pass.band_rows, y.outputs);

  const int64_t y0 = y.input_begin(row0), x0 = x.input_begin(0);
  const Word* origin;  // the input of output (row0, 0) at the first tap
  int64_t step_h, step_w;
  if (pass.ring) {
    const int64_t y1 = y.input_end(row1 - 1);
    Word* ring = memory.ring.get<Word>((y1 - y0) * pass.ring_stride);
    plan.gather.copy(n, y0, y1, x0, x.input_end(x.outputs - 1), ring);
    origin = ring;
    step_h = y.step * pass.ring_stride;
    step_w = x.step * in.words;
  } else {
    origin = in.data + n * in.stride_n + y0 * in.stride_h + x0 * in.stride_w;
    step_h = y.step * in.stride_h;
    step_w = x.step * in.stride_w;
  }

  const int64_t planes = p.bits ? p.planes : 1, padded = p.weight.padded_channels();
  const int64_t out_pixel = p.bits ? planes * plan.tiles : p.out_channels;
  const int64_t bits_pixel = p.stream ? p.stream->planes * plan.tiles : 0;
  memory.list_pixels(plan, pass, step_h, step_w, p.output.w, out_pixel, bits_pixel);
  auto* border = memory.border.get<int32_t>(pass.band_rows * x.outputs);
  for (int64_t row = row0, i = 0; row < row1; ++row) {
    const int32_t border_row = y.border[static_cast<size_t>(row)] * x.classes;
    for (int32_t border_column : x.border)
      border[i++] = static_cast<int32_t>((border_row + border_column) * planes * padded);
  }
  const int64_t out_first = (n * p.output.h + y.out_base + row0 * y.out_step) * p.output.w + x.out_base;

  Conv2dTile tile{};
  tile.pixels = (row1 - row0) * x.outputs;
  tile.input = origin;
  tile.source = memory.source;
  tile.row_pixels = x.outputs;
  tile.pixel_step = step_w;
  tile.target = memory.target;
  tile.border = border;
  tile.runs = static_cast<int64_t>(pass.runs);
  tile.run = plan.runs.data() + pass.first_run;
  tile.picture = {y.input_end(row1 - 1) - y0,
                  x.input_end(x.outputs - 1) - x0,
                  pass.ring ? pass.ring_stride : in.stride_h,
                  pass.ring ? in.words : in.stride_w,
                  p.weight.header().tile_words,
                  y.step,
                  x.step,
                  static_cast<int64_t>(pass.taps),
                  plan.taps.data() + pass.first_tap,
                  p.kernel.w};
  tile.weight = p.weight.tiles();
  tile.weight_stride = p.weight.tile_stride();
  tile.first_word = p.weight.first_word();
  tile.tile_begin = plan.tiles * split / plan.splits;
  tile.tile_end = plan.tiles * (split + 1) / plan.splits;
  if (p.weight.header().skips) {
    if (!kernel.expanded_bytes) tile.tile_run = plan.tile_runs.data() + pass.first_tile;
    tile.present = p.weight.present(0);
    tile.present_words = TiledWeight::present_words(p.weight.taps(), p.weight.header().tile_words);
  }
  tile.table = plan.table + pass.table;
  tile.table_size = int64_t{y.classes} * x.classes * planes * padded;
  tile.channels = p.out_channels;
  tile.channels_padded = padded;
  if (p.stream) {
    stream_band(p, kernel, tile,
                {n, row1 - row0, x.outputs, y.out_base + row0 * y.out_step, y.out_step, x.out_base,
                 x.out_step, memory.bits_target});
    return;
  }
  if (p.sums) tile.sums = p.sums + out_first * out_pixel;
  if (p.bits) tile.bits = p.bits + out_first * out_pixel;
  tile.planes = planes;
  tile.out_words = plan.tiles;
  tile.flip = plan.flip;
  run_tiles(kernel, tile);
}

}  // namespace

void conv2d(const Conv2dParams& p, const CpuKernel& kernel) {
  if (p.input.batch == 0 || p.output.h == 0 || p.output.w == 0 || p.out_channels == 0) return;
  static thread_local Plan plan;
  make_plan(p, kernel, plan);
  const Plan& shared = plan;  // the calling thread's: `plan` itself would name each worker's own
  const int64_t work = p.input.batch * p.output.h * p.output.w * plan.tiles * p.weight.taps() *
                       p.weight.header().tile_words / (p.transposed ? p.stride.h * p.stride.w : 1);
  const int64_t grain = std::max<int64_t>(1, kGrain * plan.items / std::max<int64_t>(work, 1));
  parallel_for(plan.items, grain, [&](int64_t item) { run_item(p, kernel, shared, item); });
}

}  // namespace mbu
