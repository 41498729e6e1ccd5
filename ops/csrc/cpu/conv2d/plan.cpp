#include "cpu/conv2d/plan.h"

#include <algorithm>
#include <atomic>

#include "cpu/conv2d/epilogue_table.h"
#include "mbu/parallel.h"

namespace mbu {
namespace {

// Pixels of a band: enough to spread the cost of the lists, few enough that input rows, lists and one weight
// tile share a first-level cache, and that threads find several bands. 256 to 4096 took the same time.
constexpr int64_t kBandPixels = 768;
// Rows that a kernel which expands its input may compute together.
constexpr int64_t kRowsTogether = 4;
// Such a kernel takes images of fewer columns and at least as many rows on their side.
constexpr int64_t kNarrow = 8, kHigh = 32;
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
    bytes += source.channels * size_of(source.type) * p.stream->pool * p.stream->pool;
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
void list_runs(const Conv2dParams& p, const Conv2dPass& pass, int64_t row_stride, int64_t column_stride,
               int64_t tile, Conv2dPlan& plan) {
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
    const int64_t source = tap.row * row_stride + tap.column * column_stride, word = tap.kernel * words;
    if (tile < 0) add(source, word * 2 * kTileChannels, words);
    for (int64_t k = 0; tile >= 0 && k < words; ++k)
      if (p.weight.is_present(tile, word + k)) add(source + k, (word + k) * 2 * kTileChannels, 1);
  }
}

int64_t through(int64_t count, int64_t parts) {
  return (count + parts - 1) / parts;
}

void plan_pass(const Conv2dParams& p, const CpuKernel& kernel, Conv2dPass& pass, Conv2dPlan& plan) {
  const AxisPhase &y = *pass.y, &x = *pass.x;
  const PackedImage& in = p.input;
  const bool taps = !y.taps.empty() && !x.taps.empty();
  pass.ring = taps && (p.parts || reads_outside(y, in.height) || reads_outside(x, in.width));
  pass.ring_stride = (x.input_end(x.outputs - 1) - x.input_begin(0)) * in.words;
  pass.turned =
      kernel.expanded_bytes && !p.stream && x.outputs < kNarrow && y.outputs >= kHigh && x.taps.size() > 1;
  const AxisPhase &rows = pass.turned ? x : y, &columns = pass.turned ? y : x;
  int64_t row_stride = pass.ring ? pass.ring_stride : in.stride_h;
  int64_t column_stride = pass.ring ? in.words : in.stride_w;
  int64_t kernel_row = p.kernel.w, kernel_column = 1;
  if (pass.turned) std::swap(row_stride, column_stride), std::swap(kernel_row, kernel_column);
  pass.first_tap = plan.taps.size();
  for (const AxisTap& row : rows.taps)
    for (const AxisTap& column : columns.taps)
      plan.taps.push_back({row.offset - rows.first, column.offset - columns.first,
                           row.kernel * kernel_row + column.kernel * kernel_column});
  pass.first_run = plan.runs.size();
  pass.first_tile = plan.tile_runs.size();
  if (p.weight.header().skips && !kernel.expanded_bytes) {
    for (int64_t tile = 0; tile < plan.tiles; ++tile) {
      plan.tile_runs.push_back(plan.runs.size() - pass.first_run);
      list_runs(p, pass, row_stride, column_stride, tile, plan);
    }
    plan.tile_runs.push_back(plan.runs.size() - pass.first_run);
  } else {
    list_runs(p, pass, row_stride, column_stride, -1, plan);
  }
  pass.runs = plan.runs.size() - pass.first_run;
  pass.taps = plan.taps.size() - pass.first_tap;
  pass.band_rows = std::clamp<int64_t>(band_pixels(p, kernel, y, x) / x.outputs, 1, y.outputs);
  pass.bands = through(y.outputs, pass.band_rows);
  // Of bands whose input becomes bytes, as many for every thread, with rows that are computed together. A
  // single one is cut where all its weights are fewer bytes than its input: either would be expanded by every
  // thread.
  const int64_t together = kernel.expanded_bytes ? kRowsTogether : 1;
  const int64_t weights = static_cast<int64_t>(pass.taps) * p.weight.padded_channels();
  const bool cuts = pass.bands > 1 || y.outputs * x.outputs > weights;
  if (together > 1 && cuts) pass.bands = through(pass.bands, num_threads()) * num_threads();
  pass.band_rows = through(through(y.outputs, pass.bands), together) * together;
  pass.band_rows = std::min(pass.band_rows, y.outputs);
  pass.bands = through(y.outputs, pass.band_rows);
}

// Whether all passes read the same pixels: those of a transposed layer whose kernel is as large as its
// stride.
bool sees_same_input(const Conv2dPlan& plan) {
  const Conv2dPass& first = plan.passes.front();
  const auto alike = [](const AxisPhase& a, const AxisPhase& b) {
    return a.outputs == b.outputs && a.step == b.step && a.out_step == b.out_step && a.first == b.first &&
           a.taps.size() == 1 && b.taps.size() == 1 && a.input_begin(0) == b.input_begin(0);
  };
  return plan.passes.size() > 1 &&
         std::all_of(plan.passes.begin(), plan.passes.end(), [&](const Conv2dPass& pass) {
           return !pass.ring && alike(*pass.y, *first.y) && alike(*pass.x, *first.x);
         });
}

}  // namespace

void make_plan(const Conv2dParams& p, const CpuKernel& kernel, Conv2dPlan& plan) {
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
  int64_t table = 0;
  for (int64_t i = 0; i < plan.y.count; ++i) {
    for (int64_t j = 0; j < plan.x.count; ++j) {
      Conv2dPass pass{};
      pass.y = &plan.y.phases[static_cast<size_t>(i)];
      pass.x = &plan.x.phases[static_cast<size_t>(j)];
      pass.table = table;
      table += int64_t{pass.y->classes} * pass.x->classes * planes * padded;
      plan_pass(p, kernel, pass, plan);
      plan.passes.push_back(pass);
    }
  }
  plan.interleaved = sees_same_input(plan);
  // The passes whose bands threads take one by one.
  const auto begin = plan.passes.begin(), end = plan.interleaved ? begin + 1 : plan.passes.end();
  int64_t bands = 0;
  for (auto pass = begin; pass != end; ++pass) bands += pass->bands * p.input.batch;
  // Few bands and many threads: let several threads share a band, each with its own channel tiles; no more of
  // them where each makes bytes of the input. A head needs all channels of a pixel at once.
  const bool whole = num_threads() == 1 || (p.stream && p.stream->head);
  const int64_t wanted = whole ? 1 : (kernel.expanded_bytes ? 1 : 4) * num_threads();
  plan.splits = std::clamp<int64_t>(through(wanted, bands), 1, plan.tiles);
  plan.items = 0;
  for (auto pass = begin; pass != end; ++pass) {
    pass->first_item = plan.items;
    plan.items += pass->bands * p.input.batch * plan.splits;
  }
  plan.table = plan.table_memory.get<int32_t>(table);
  for (const Conv2dPass& pass : plan.passes)
    fill_table(p, kernel.expanded_bytes > 0, *pass.y, *pass.x, plan.table + pass.table);
  if (p.bits) {
    plan.flip = plan.flip_memory.get<Word>(planes * plan.tiles);
    for (int64_t i = 0; i < planes * plan.tiles; ++i)
      plan.flip[i] = p.flip[i] & valid_bits(i % plan.tiles, p.out_channels);
  }
}

}  // namespace mbu
