// Which kernel runs a layer on a card.
#pragma once
#include <cstdint>
#include <vector>

#include "cuda/launch.h"
#include "cuda/plan_gemm.h"
#include "cuda/weight.h"

namespace mbu::cuda {

// Kernels for one tensor-core instruction; all of a device's weights are laid out for one family.
struct Family {
  const char* name;  // "sm80_xor"
  DeviceLayout layout;
};

// The family of a device: of those whose kernels all have a route there, the first of choices.inc, or the one
// that MBU_CUDA_FAMILY names in the environment. Null where there is none, with the reason in `why`.
const Family* family_of(int device, const char** why);

// A launch that may run a layer, and the fewest blocks per multiprocessor for which the table takes it.
struct Candidate {
  Launch launch;
  int64_t fewest_blocks;
};

// The most output channels of a layer with a head, which takes a block that has them all.
constexpr int32_t kMostBeforeHead = 64;

// Append the launches for a planned convolution, or a planned product of rows, best first by the table;
// `vector` as in plan.h, and `params` stay the caller's. MBU_CUDA_GEMM=always|never in the environment asks
// for kernels on main loops of CUTLASS wherever they can run, or nowhere.
void add_conv2ds(int device, const Family& family, const Conv2dParams& params, bool stream, int vector,
                 std::vector<Candidate>& candidates);
void add_gemms(int device, const Family& family, const GemmParams& params,
               std::vector<Candidate>& candidates);

// Whether rows of so many words, and sums over so many in all, are worth those loops. Where no weight is zero
// and products are AND, those loops multiply two planes and our own convolution one.
bool fills_stages(int64_t words, int64_t k_words, DeviceLayout layout, bool binary);

// The first candidate that keeps the device busy; with MBU_CUDA_SEARCH=1 the fastest one of those that a
// launch can hold (cuda/search.h). `layer` is all that its time depends on. Null where there is none.
const Launch* choose(int device, const std::string& layer, const std::vector<Candidate>& candidates,
                     Stream stream);

}  // namespace mbu::cuda
