#include "cuda/choose.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

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

struct GemmKernel {
  const char* family;
  Kernel kernel;
  int64_t fewest_blocks;
};

const GemmKernel kGemms[] = {
#define MBU_CUDA_GEMM(suffix, tile, blocks) {#suffix, Kernel::gemm_##tile##__##suffix, blocks},
#include "cuda/choices.inc"
#undef MBU_CUDA_GEMM
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

int64_t blocks_of(int64_t size, int64_t tile) {
  return (size + tile - 1) / tile;
}

bool environment_says(const char* what) {
  const char* found = std::getenv("MBU_CUDA_GEMM");
  return found && !std::strcmp(found, what);
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
    for (const FamilyKernels& candidate : kFamilies) {
      const char* reason = missing(device, candidate);
      if (!reason) {
        at->second.family = &candidate.family;
        break;
      }
      if (at->second.why.find(reason) == std::string::npos)
        at->second.why += (at->second.why.empty() ? "" : "; ") + std::string(reason);
    }
  }
  *why = at->second.why.c_str();
  return at->second.family;
}

Kernel choose_conv2d(const Family& family, int64_t pixels, int64_t channels, int64_t passes, bool stream,
                     int vector, int multiprocessors) {
  // A Family is the first member of its line in kFamilies.
  const Kernels& kernels = reinterpret_cast<const FamilyKernels&>(family).kernels;
  const int index = vector == 4 ? 2 : vector == 2 ? 1 : 0;
  for (int tile = 0; tile < kTiles - 1; ++tile) {
    const Kernel kernel = kernels.kernel[tile][stream][index];
    const KernelInfo& info = kKernels[static_cast<int>(kernel)];
    const int64_t blocks = blocks_of(pixels, info.pixels) * blocks_of(channels, info.channels) * passes;
    if (blocks >= kFewestBlocks[tile] * multiprocessors) return kernel;
  }
  return kernels.kernel[kTiles - 1][stream][index];
}

bool choose_gemm(int device, const Family& family, const Product& product, int multiprocessors,
                 Kernel& kernel) {
  const bool always = environment_says("always");
  if (environment_says("never")) return false;
  if (!always && (product.words < kFewestWords || product.words % kStageWords)) return false;
  for (const GemmKernel& candidate : kGemms) {
    const KernelInfo& info = kKernels[static_cast<int>(candidate.kernel)];
    const int64_t blocks =
        blocks_of(product.rows, info.pixels) * blocks_of(product.out_channels, info.channels);
    if (std::strcmp(candidate.family, family.name) || !route(device, candidate.kernel).function) continue;
    if (!always && blocks < candidate.fewest_blocks * multiprocessors) continue;
    kernel = candidate.kernel;
    return true;
  }
  return false;
}

}  // namespace mbu::cuda
