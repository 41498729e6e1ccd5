// Max pooling of packed activations. The largest of some values in {-1, +1} is +1 where any of them is: OR.
// A window is a product of rows and columns, so the rows are combined first, as whole rows of words, and the
// columns after, once per output pixel. Padding never wins a maximum: windows are cut to the input.
#include <algorithm>
#include <cstring>

#include "cpu/kernels.h"
#include "mbu/parallel.h"
#include "mbu/scratch.h"

namespace mbu {
namespace {

// Input words (about 0.2 ns each) below which a second thread does not pay.
constexpr int64_t kGrain = 100000;

// The places begin + i * step, i in [0, count), that lie in [0, size).
struct Inside {
  int64_t first, count;

  Inside(int64_t begin, int64_t step, int64_t count, int64_t size)
      : first(begin < 0 ? (-begin + step - 1) / step : 0),
        count(begin >= size ? 0
                            : std::max<int64_t>(std::min(count, (size - 1 - begin) / step + 1) - first, 0)) {}
};

struct RowMemory {
  Scratch pointers, gathered, combined;
};

// out[pixel] = OR over the columns of the pixel's window. kWords: compile-time channel words, 0: run-time.
template <int64_t kWords>
void combine_columns(const MaxPool2dParams& p, const Word* row, Word* out) {
  const int64_t words = kWords ? kWords : p.input.words;
  for (int64_t x = 0; x < p.output.w; ++x, out += words) {
    for (int64_t k = 0; k < words; ++k) out[k] = 0;
    const int64_t begin = x * p.stride.w - p.padding.w;
    const Inside inside(begin, p.dilation.w, p.kernel.w, p.input.width);
    for (int64_t j = inside.first; j < inside.first + inside.count; ++j) {
      const Word* source = row + (begin + j * p.dilation.w) * words;
      for (int64_t k = 0; k < words; ++k) out[k] |= source[k];
    }
  }
}

void pool_row(const CpuKernel& kernel, const MaxPool2dParams& p, int64_t n, int64_t y) {
  static thread_local RowMemory memory;
  const PackedImage& in = p.input;
  const int64_t count = in.width * in.words;
  const int64_t begin = y * p.stride.h - p.padding.h;
  const Inside inside(begin, p.dilation.h, p.kernel.h, in.height);
  const int64_t row_count = inside.count;
  auto* rows = memory.pointers.get<const Word*>(row_count);
  for (int64_t i = 0; i < row_count; ++i)
    rows[i] = in.data + n * in.stride_n + (begin + (inside.first + i) * p.dilation.h) * in.stride_h;

  if (in.stride_w != in.words) {  // a slice of a wider tensor: bring its words together first
    Word* gathered = memory.gathered.get<Word>(row_count * count);
    for (int64_t i = 0; i < row_count; ++i, gathered += count) {
      for (int64_t x = 0; x < in.width; ++x)
        std::copy_n(rows[i] + x * in.stride_w, in.words, gathered + x * in.words);
      rows[i] = gathered;
    }
  }
  Word* row = memory.combined.get<Word>(count);
  kernel.or_rows(rows, row_count, count, row);

  Word* out = p.bits + (n * p.output.h + y) * p.output.w * in.words;
  switch (in.words) {
    case 1:
      return combine_columns<1>(p, row, out);
    case 2:
      return combine_columns<2>(p, row, out);
    case 4:
      return combine_columns<4>(p, row, out);
    case 8:
      return combine_columns<8>(p, row, out);
    case 16:
      return combine_columns<16>(p, row, out);
    default:
      return combine_columns<0>(p, row, out);
  }
}

}  // namespace

void max_pool2d(const MaxPool2dParams& p) {
  const int64_t rows = p.input.batch * p.output.h, work = p.input.width * p.input.words * p.kernel.h;
  if (rows * p.output.w * p.input.words == 0) return;
  const CpuKernel& kernel = cpu_kernel();
  parallel_for(rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(work, 1)),
               [&](int64_t row) { pool_row(kernel, p, row / p.output.h, row % p.output.h); });
}

}  // namespace mbu
