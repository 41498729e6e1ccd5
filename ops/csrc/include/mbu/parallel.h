// The seam to a thread pool. csrc/torch/parallel.cpp supplies torch's, so that these kernels and torch's own
// share one pool and one setting (torch.set_num_threads).
#pragma once
#include <cstdint>

namespace mbu {

int num_threads();

using RangeFunction = void (*)(int64_t begin, int64_t end, void* context);
void parallel_range(int64_t count, int64_t grain, RangeFunction function, void* context);

// Calls body(i) for every i in [0, count); in pieces of at least `grain` consecutive calls, which threads
// take as they come.
template <class Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  auto run = [](int64_t begin, int64_t end, void* context) {
    const Body& f = *static_cast<const Body*>(context);
    for (int64_t i = begin; i < end; ++i) f(i);
  };
  if (count <= grain || num_threads() == 1) return run(0, count, const_cast<Body*>(&body));
  parallel_range(count, grain, run, const_cast<Body*>(&body));
}

}  // namespace mbu
