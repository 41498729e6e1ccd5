// Loops written out by the compiler's front end. An array indexed by constants becomes registers; one indexed
// by a loop variable, unrolled later or not, may keep its place in memory, with a store per update.
#pragma once
#include <utility>

#define MBU_INLINE inline __attribute__((always_inline))
#define MBU_LAMBDA __attribute__((always_inline))  // after the parameters of a lambda

namespace mbu {
namespace {

// f(0), f(1), .. f(kCount - 1).
template <int kCount, class F>
MBU_INLINE void each(F f) {
  [&]<int... i>(std::integer_sequence<int, i...>)
      MBU_LAMBDA { (f(i), ...); }(std::make_integer_sequence<int, kCount>());
}

}  // namespace
}  // namespace mbu
