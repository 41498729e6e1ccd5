#include "cuda/choose.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/search.h"

namespace mbu::cuda {
namespace {

constexpr int kTiles = 3, kVectors = 3;

// [tile][bits, stream][vector 1, 2, 4], tiles as in choices.inc.
struct Kernels {
  Kernel kernel[kTiles][2][kVectors];
};

#define MBU_VECTORS(stem, suffix) \
  {Kernel::stem##_v1__##suffix, Kernel::stem##_v2__##suffix, Kernel::stem##_v4__##suffix}
#define MBU_TILE(tile, suffix) \
  {MBU_VECTORS(conv2d_##tile##_bits, suffix), MBU_VECTORS(conv2d_##tile##_stream, suffix)}

struct FamilyKernels {
  Family family;
  Kernels kernels;
};
const FamilyKernels kFamilies[] = {
#define MBU_CUDA_FAMILY(suffix, layout) \
  {{#suffix, DeviceLayout::layout},     \
   {{MBU_TILE(128x64, suffix), MBU_TILE(64x64, suffix), MBU_TILE(32x32, suffix)}}},
#include "cuda/choices.inc"
#undef MBU_CUDA_FAMILY
};

const int64_t kFewestBlocks[kTiles] = {
#define MBU_CUDA_TILE(tile, blocks) blocks,
#include "cuda/choices.inc"
#undef MBU_CUDA_TILE
};

// A kernel on a main loop of CUTLASS; a product writes both by itself.
struct LoopKernel {
  const char* family;
  Kernel bits, stream;
  int64_t fewest_blocks;
};

const LoopKernel kGemms[] = {
#define MBU_CUDA_GEMM(suffix, tile, blocks) \
  {#suffix, Kernel::gemm_##tile##__##suffix, Kernel::gemm_##tile##__##suffix, blocks},
#include "cuda/choices.inc"
#undef MBU_CUDA_GEMM
};
const LoopKernel kWide[] = {
#define MBU_CUDA_WIDE(suffix, tile, blocks)                                                             \
  {#suffix, Kernel::wide_conv2d_##tile##_bits__##suffix, Kernel::wide_conv2d_##tile##_stream__##suffix, \
   blocks},
#include "cuda/choices.inc"
#undef MBU_CUDA_WIDE
};
const int64_t kFewestWords =
#define MBU_CUDA_GEMM_WORDS(words) words
#include "cuda/choices.inc"
#undef MBU_CUDA_GEMM_WORDS
    ;
constexpr int64_t kStageWords = 16;  // 512 bits of K in a step of CUTLASS's loop

// Why some kernel of a family has no route on a device; null where all have one.
const char* missing(int device, const FamilyKernels& family) {
  for (const auto& tile : family.kernels.kernel)
    for (const auto& epilogue : tile)
      for (Kernel kernel : epilogue)
        if (!route(device, kernel).function) return route(device, kernel).text.c_str();
  return nullptr;
}

bool environment_says(const char* what) {
  const char* found = std::getenv("MBU_CUDA_GEMM");
  return found && !std::strcmp(found, what);
}

// One pass whose sources fill whole stages of CUTLASS's loop, with a sum that is worth filling them twice.
bool is_wide(const Conv2dParams& p, DeviceLayout layout) {
  return p.phases_h * p.phases_w == 1 && p.source[0].words % kStageWords == 0 &&
         p.source[1].words % kStageWords == 0 &&
         fills_stages(p.words, int64_t{p.taps} * p.words, layout, p.weight_planes == 1);
}

const KernelInfo& info_of(Kernel kernel) {
  return kKernels[static_cast<int>(kernel)];
}

// A block with a head has all channels.
bool holds(const Conv2dParams& p, Kernel kernel) {
  return !p.stream.head || info_of(kernel).channels >= p.out_channels;
}

void add(int device, const Family& family, const LoopKernel& each, Kernel kernel, Grid grid,
         const void* params, std::vector<Candidate>& to) {
  if (!std::strcmp(each.family, family.name) && route(device, kernel).function)
    to.push_back({{kernel, grid, params}, environment_says("always") ? 0 : each.fewest_blocks});
}

}  // namespace

const Family* family_of(int device, const char** why) {
  struct Found {
    const Family* family;
    std::string why;
  };
  static std::mutex mutex;
  static auto& found = *new std::map<int, Found>;
  const std::lock_guard<std::mutex> lock(mutex);
  auto [at, fresh] = found.try_emplace(device);
  if (fresh) {
    const char* wanted = std::getenv("MBU_CUDA_FAMILY");
    for (const FamilyKernels& candidate : kFamilies) {
      if (wanted && std::strcmp(wanted, candidate.family.name)) continue;
      const char* reason = missing(device, candidate);
      if (!reason) {
        at->second.family = &candidate.family;
        break;
      }
      if (at->second.why.find(reason) == std::string::npos)
        at->second.why += (at->second.why.empty() ? "" : "; ") + std::string(reason);
    }
    if (wanted && !at->second.family)
      at->second.why = std::string("MBU_CUDA_FAMILY=") + wanted + ": " +
                       (at->second.why.empty() ? "there is no such family, see mbu doctor" : at->second.why);
  }
  *why = at->second.why.c_str();
  return at->second.family;
}

void add_conv2ds(int device, const Family& family, const Conv2dParams& p, bool stream, int vector,
                 std::vector<Candidate>& candidates) {
  const auto grid = [&](Kernel kernel) {
    return conv2d_grid(p, info_of(kernel).pixels, info_of(kernel).channels);
  };
  if (!environment_says("never") && is_wide(p, family.layout) && vector == 4)
    for (const LoopKernel& each : kWide) {
      const Kernel kernel = stream ? each.stream : each.bits;
      if (holds(p, kernel)) add(device, family, each, kernel, grid(kernel), &p, candidates);
    }
  // A Family is the first member of its line in kFamilies.
  const Kernels& kernels = reinterpret_cast<const FamilyKernels&>(family).kernels;
  const int index = vector == 4 ? 2 : vector == 2 ? 1 : 0;
  for (int tile = 0; tile < kTiles; ++tile) {
    const Kernel kernel = kernels.kernel[tile][stream][index];
    if (holds(p, kernel)) candidates.push_back({{kernel, grid(kernel), &p}, kFewestBlocks[tile]});
  }
  if (!candidates.empty()) candidates.back().fewest_blocks = 0;  // the smallest that there is
}

void add_gemms(int device, const Family& family, const GemmParams& p, std::vector<Candidate>& candidates) {
  if (environment_says("never")) return;
  for (const LoopKernel& each : kGemms)
    add(device, family, each, each.bits, gemm_grid(p, info_of(each.bits).pixels, info_of(each.bits).channels),
        &p, candidates);
}

bool fills_stages(int64_t words, int64_t k_words, DeviceLayout layout, bool binary) {
  if (environment_says("always")) return true;
  const bool twice_for_once = binary && layout == DeviceLayout::and_popc;
  return k_words >= kFewestWords && words % kStageWords == 0 && !twice_for_once;
}

const Launch* choose(int device, const std::string& layer, const std::vector<Candidate>& candidates,
                     Stream stream) {
  constexpr uint32_t kLargestGrid = 65535;  // in y and z
  const int64_t multiprocessors = device_info(device).multiprocessors;
  const Launch* predicted = nullptr;
  std::vector<Launch> launches;
  size_t index = 0;
  for (const Candidate& candidate : candidates) {
    const Grid& grid = candidate.launch.grid;
    if (grid.y > kLargestGrid || grid.z > kLargestGrid) continue;
    if (!predicted && int64_t{grid.x} * grid.y * grid.z >= candidate.fewest_blocks * multiprocessors) {
      predicted = &candidate.launch;
      index = launches.size();
    }
    launches.push_back(candidate.launch);
  }
  if (!predicted || !searching()) return predicted;
  const Launch& best = launches[search(device, layer, launches, index, stream)];
  for (const Candidate& candidate : candidates)
    if (candidate.launch.kernel == best.kernel) return &candidate.launch;
  return predicted;
}

}  // namespace mbu::cuda
