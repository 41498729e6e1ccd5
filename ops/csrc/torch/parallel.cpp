#include "mbu/parallel.h"

#include <pthread.h>
#include <time.h>
#include <torch/csrc/stable/ops.h>
#if defined(__linux__)
#include <dirent.h>
#endif

#include <algorithm>
#include <atomic>

#include "torch/sharing.h"

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
  std::atomic<double> busy{0.0};  // seconds that all threads ran, without what they were kept from running
};

double seconds(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// The orders of memory here repeat what the pool's own fork and join bring about, which ThreadSanitizer does
// not see.
void take_pieces(int64_t, int64_t, void* context) {
  Work& work = *static_cast<Work*>(context);
  work.next.load(std::memory_order_acquire);
  const int64_t count = work.count, piece = work.piece;
  const double start = seconds(CLOCK_THREAD_CPUTIME_ID);
  for (int64_t i; (i = work.next.fetch_add(piece, std::memory_order_acq_rel)) < count;)
    work.function(i, std::min(i + piece, count), work.context);
  work.busy.fetch_add(seconds(CLOCK_THREAD_CPUTIME_ID) - start, std::memory_order_relaxed);
}

// A fork takes along the thread that calls it alone, but the OpenMP of GCC goes on to believe in the pool of
// the parent: the child's first parallel region would wait for it for ever. So a child of a process that had
// threads works alone. Whether these are a pool cannot be told.
std::atomic<bool> had_threads{false}, without_pool{false};

void before_fork() {
  had_threads = true;
#if defined(__linux__)
  DIR* tasks = opendir("/proc/self/task");
  if (!tasks) return;
  int entries = 0;  // ".", ".." and one for every thread
  while (entries < 4 && readdir(tasks)) ++entries;
  closedir(tasks);
  had_threads = entries > 3;
#endif
}

void in_child() {
  if (had_threads) without_pool = true;
}

const int kWatchesForks = pthread_atfork(before_fork, nullptr, in_child);

thread_local Sharing sharing;

}  // namespace

// One while sharing does not pay, so that work is planned for the thread that will do it.
int num_threads() {
  if (without_pool || !sharing.pays(seconds(CLOCK_MONOTONIC))) return 1;
  return static_cast<int>(torch::stable::get_num_threads());
}

void parallel_range(int64_t count, int64_t grain, RangeFunction function, void* context) {
  const double start = seconds(CLOCK_MONOTONIC);
  const int64_t threads = std::min<int64_t>(num_threads(), (count + grain - 1) / grain);
  if (threads == 1) return function(0, count, context);
  Work work{function, context, count, std::max(grain, count / (threads * kPiecesPerThread))};
  work.next.store(0, std::memory_order_release);
  STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, threads, 1, take_pieces, &work));
  work.next.load(std::memory_order_acquire);
  const double end = seconds(CLOCK_MONOTONIC);
  sharing.add(work.busy.load(std::memory_order_relaxed) - (end - start), end);
}

}  // namespace mbu
