#include "mbu/parallel.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>

namespace mbu {
namespace {

// Pieces of work that each thread finds on average: enough that one whose core is busy elsewhere leaves the
// rest to the others.
constexpr int64_t kPiecesPerThread = 8;

struct Work {
  RangeFunction function;
  void* context;
  int64_t count, piece;
  std::atomic<int64_t> next{0};
};

void take_pieces(int64_t, int64_t, void* context) {
  Work& work = *static_cast<Work*>(context);
  for (int64_t i; (i = work.next.fetch_add(work.piece, std::memory_order_relaxed)) < work.count;)
    work.function(i, std::min(i + work.piece, work.count), work.context);
}

}  // namespace

int num_threads() {
  return static_cast<int>(torch::stable::get_num_threads());
}

void parallel_range(int64_t count, int64_t grain, RangeFunction function, void* context) {
  const int64_t threads = std::min<int64_t>(num_threads(), (count + grain - 1) / grain);
  Work work{function, context, count, std::max(grain, count / (threads * kPiecesPerThread))};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, threads, 1, take_pieces, &work));
}

}  // namespace mbu
