// Drives the head microkernels: row by row, the pixels in the middle together, those at both ends, whose
// windows reach outside, one by one with what lies inside.
#include "cpu/head/head.h"

#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "mbu/parallel.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

// Multiply-adds (about 0.03 ns each) below which a second thread does not pay.
constexpr int64_t kGrain = 1000000;

// What a thread keeps.
struct Memory {
  Scratch copy;
  std::vector<const float*> row, inside, weight, used;
};

bool is_dense(const HeadParams& p) {
  return (p.channels == 1 || p.stride_c == 1) && (p.width == 1 || p.stride_w == p.channels);
}

// Input rows that the output row meets, and the weights of each; rows outside add nothing.
void list_rows(const HeadParams& p, int64_t n, int64_t y, Memory& memory) {
  memory.row.clear();
  memory.weight.clear();
  const int64_t floats = p.width * p.channels;
  float* copy = is_dense(p) ? nullptr : memory.copy.get<float>(p.kernel.h * floats);
  for (int64_t i = 0; i < p.kernel.h; ++i) {
    const int64_t input_row = y - p.padding.h + i;
    if (input_row < 0 || input_row >= p.height) continue;
    const float* from = p.input + n * p.stride_n + input_row * p.stride_h;
    if (copy) {
      float* to = copy + i * floats;
      for (int64_t x = 0; x < p.width; ++x)
        for (int64_t c = 0; c < p.channels; ++c)
          to[x * p.channels + c] = from[x * p.stride_w + c * p.stride_c];
      from = to;
    }
    memory.row.push_back(from);
    memory.weight.push_back(p.weight + i * p.kernel.w * p.channels);
  }
}

// Output pixels [begin, end), whose windows lack the same columns.
void run_pixels(const HeadParams& p, const CpuKernel& kernel, int64_t begin, int64_t end, float* output,
                Memory& memory) {
  if (begin >= end) return;
  const int64_t column = begin - p.padding.w;
  const int64_t from = std::max<int64_t>(-column, 0), to = std::min(p.kernel.w, p.width - column);
  memory.inside = memory.row;
  memory.used = memory.weight;
  for (const float*& row : memory.inside) row += (column + from) * p.channels;
  for (const float*& weight : memory.used) weight += from * p.channels;
  HeadWindows t{};
  t.row = memory.inside.data();
  t.weight = memory.used.data();
  t.rows = to > from ? static_cast<int64_t>(memory.row.size()) : 0;
  t.class_stride = p.kernel.h * p.kernel.w * p.channels;
  t.length = (to - from) * p.channels;
  t.step = p.channels;
  t.pixels = end - begin;
  t.classes = p.classes;
  t.bias = p.bias;
  t.output = output + begin * p.classes;
  kernel.head_windows(t);
}

void run_row(const HeadParams& p, const CpuKernel& kernel, int64_t item) {
  static thread_local Memory memory;
  const int64_t n = item / p.output.h, y = item % p.output.h;
  list_rows(p, n, y, memory);
  float* output = p.logits + item * p.output.w * p.classes;
  const int64_t middle = std::min(p.padding.w, p.output.w);
  const int64_t after = std::max(middle, std::min(p.width - p.kernel.w + p.padding.w + 1, p.output.w));
  for (int64_t x = 0; x < middle; ++x) run_pixels(p, kernel, x, x + 1, output, memory);
  run_pixels(p, kernel, middle, after, output, memory);
  for (int64_t x = after; x < p.output.w; ++x) run_pixels(p, kernel, x, x + 1, output, memory);
}

}  // namespace

void head(const HeadParams& p) {
  if (p.batch * p.output.h * p.output.w * p.classes == 0) return;
  const CpuKernel& kernel = cpu_kernel();
  const int64_t work = p.output.w * p.classes * p.kernel.h * p.kernel.w * p.channels;
  parallel_for(p.batch * p.output.h, std::max<int64_t>(1, kGrain / std::max<int64_t>(work, 1)),
               [&](int64_t item) { run_row(p, kernel, item); });
}

}  // namespace mbu
