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

#include "cpu/conv2d/plan.h"
#include "cpu/stream/stream.h"
#include "mbu/parallel.h"

namespace mbu {
namespace {

// Tile-words (32 channels x 1 word x 1 pixel, about a nanosecond) below which a second thread does not pay.
constexpr int64_t kGrain = 20000;

// What a thread keeps for the band it works on. The offsets of a band's pixels are the same for every band of
// a pass, and of passes alike, so they are listed once per thread.
struct BandMemory {
  Scratch ring, border, offsets, own, own_target;
  const int64_t *source, *target, *bits_target;
  uint64_t call = 0;
  const Conv2dPass* pass = nullptr;
  int64_t rows = 0;

  // `bits_pixel`: words of an output pixel that a float stream leaves as bits beside it.
  void list_pixels(const Conv2dPlan& plan, const Conv2dPass& of, int64_t of_rows, int64_t step_h,
                   int64_t step_w, int64_t out_row, int64_t out_pixel, int64_t bits_pixel) {
    if (call == plan.call && (pass == &of || plan.interleaved) && (!of.turned || rows == of_rows)) return;
    call = plan.call;
    pass = &of;
    rows = of.turned ? of_rows : of.band_rows;
    const int64_t pixels = rows * of.x->outputs;
    auto* list = offsets.get<int64_t>((bits_pixel ? 3 : 2) * pixels);
    source = list;
    target = list + pixels;
    bits_target = target + pixels;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < of.x->outputs; ++column) {
        const int64_t output = row * of.y->out_step * out_row + column * of.x->out_step;
        int64_t* pixel = list + (of.turned ? column * rows + row : row * of.x->outputs + column);
        pixel[0] = row * step_h + column * step_w;
        pixel[pixels] = output * out_pixel;
        if (bits_pixel) pixel[2 * pixels] = output * bits_pixel;
      }
    }
  }
};

// The border classes of a band's pixels, `stride` elements of the table apart.
void list_borders(const Conv2dPass& pass, int64_t row0, int64_t row1, int32_t stride, int32_t* to) {
  struct Part {
    const int32_t* border;
    int64_t count;
    int32_t stride;
  };
  Part outer{pass.y->border.data() + row0, row1 - row0, pass.x->classes * stride};
  Part inner{pass.x->border.data(), pass.x->outputs, stride};
  if (pass.turned) std::swap(outer, inner);
  for (int64_t i = 0, end; i < outer.count; i = end) {
    for (int64_t j = 0; j < inner.count; ++j)
      to[j] = outer.border[i] * outer.stride + inner.border[j] * inner.stride;
    // The same for all that have this class, twice as many at a time.
    for (end = i + 1; end < outer.count && outer.border[end] == outer.border[i];) ++end;
    const int64_t all = (end - i) * inner.count;
    for (int64_t done = inner.count; done < all; done *= 2)
      std::copy_n(to, std::min(done, all - done), to + done);
    to += all;
  }
}

// Where threads share a band, others write other words of the same pixels, and a line that two cores write in
// turn is slow: the bits of these tiles stay with this thread until all are there.
void run_tiles_apart(const CpuKernel& kernel, Conv2dTile tile, BandMemory& memory) {
  const int64_t first = tile.tile_begin, words = tile.tile_end - first, out_words = tile.out_words;
  const int64_t pixel_words = tile.planes * words;
  const int64_t* target = tile.target;
  Word* bits = tile.bits + first;
  Word* own = memory.own.get<Word>((tile.pixels + 1) * pixel_words);
  Word* flip = own + tile.pixels * pixel_words;
  for (int64_t plane = 0; plane < tile.planes; ++plane)
    std::copy_n(tile.flip + plane * out_words + first, words, flip + plane * words);
  auto* own_target = memory.own_target.get<int64_t>(tile.pixels);
  for (int64_t i = 0; i < tile.pixels; ++i) own_target[i] = i * pixel_words;
  tile.bits = own - first;
  tile.flip = flip - first;
  tile.out_words = words;
  tile.target = own_target;
  run_tiles(kernel, tile);
  for (int64_t i = 0; i < tile.pixels; ++i)
    for (int64_t plane = 0; plane < tile.planes; ++plane, own += words)
      std::copy_n(own, words, bits + target[i] + plane * out_words);
}

void run_pass(const Conv2dParams& p, const CpuKernel& kernel, const Conv2dPlan& plan, const Conv2dPass& pass,
              int64_t item) {
  static thread_local BandMemory memory;
  const AxisPhase &y = *pass.y, &x = *pass.x;
  const PackedImage& in = p.input;
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
  memory.list_pixels(plan, pass, row1 - row0, step_h, step_w, p.output.w, out_pixel, bits_pixel);
  auto* border = memory.border.get<int32_t>(pass.band_rows * x.outputs);
  list_borders(pass, row0, row1, static_cast<int32_t>(planes * padded), border);
  const int64_t out_first = (n * p.output.h + y.out_base + row0 * y.out_step) * p.output.w + x.out_base;

  Conv2dTile tile{};
  tile.pixels = (row1 - row0) * x.outputs;
  tile.input = origin;
  tile.source = memory.source;
  tile.row_pixels = pass.turned ? row1 - row0 : x.outputs;
  tile.pixel_step = pass.turned ? step_h : step_w;
  tile.target = memory.target;
  tile.border = border;
  if (plan.interleaved) tile.same_input = {plan.call, item / plan.splits};
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
                  plan.taps.data() + pass.first_tap};
  // One tap that meets no border: where rows follow one another in memory, all pixels are one row.
  const bool joins = pass.taps == 1 && y.classes * x.classes == 1 && y.step == 1 && x.step == 1;
  if (joins && step_h == x.outputs * step_w && !kernel.expanded_bytes && !p.stream) {
    tile.row_pixels = tile.picture.columns = tile.pixels;
    tile.picture.rows = 1;
  }
  if (pass.turned) {
    std::swap(tile.picture.rows, tile.picture.columns);
    std::swap(tile.picture.row_stride, tile.picture.pixel_stride);
    std::swap(tile.picture.step_h, tile.picture.step_w);
  }
  tile.weight_sum = p.weight.weight_sum();
  tile.weight = p.weight.tiles();
  tile.weight_stride = p.weight.tile_stride();
  tile.binary = p.weight.header().binary;
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
  if (p.bits && plan.splits > 1)
    run_tiles_apart(kernel, tile, memory);
  else
    run_tiles(kernel, tile);
}

void run_item(const Conv2dParams& p, const CpuKernel& kernel, const Conv2dPlan& plan, int64_t item) {
  if (plan.interleaved) {
    for (const Conv2dPass& pass : plan.passes) run_pass(p, kernel, plan, pass, item);
    return;
  }
  const Conv2dPass* pass = &plan.passes.back();
  while (pass->first_item > item) --pass;
  run_pass(p, kernel, plan, *pass, item - pass->first_item);
}

}  // namespace

void conv2d(const Conv2dParams& p, const CpuKernel& wanted) {
  if (p.input.batch == 0 || p.output.h == 0 || p.output.w == 0 || p.out_channels == 0) return;
  const CpuKernel& kernel = kernel_for(wanted, p);
  static thread_local Conv2dPlan plan;
  make_plan(p, kernel, plan);
  const Conv2dPlan& shared = plan;  // the calling thread's: `plan` itself would name each worker's own
  const int64_t work = p.input.batch * p.output.h * p.output.w * plan.tiles * p.weight.taps() *
                       p.weight.header().tile_words / (p.transposed ? p.stride.h * p.stride.w : 1);
  const int64_t grain = std::max<int64_t>(1, kGrain * plan.items / std::max<int64_t>(work, 1));
  parallel_for(plan.items, grain, [&](int64_t item) { run_item(p, kernel, shared, item); });
}

}  // namespace mbu
