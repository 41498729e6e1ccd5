// What the library can run on which card. No driver call here: the rules alone.
#pragma once
#include <string>
#include <vector>

#include "cuda/images.h"

namespace mbu::cuda {

// One line of kernels.inc.
struct KernelInfo {
  const char *name, *stem, *targets;
  int params_bytes, threads, shared_bytes, pixels, channels;
};

enum class Kernel : int {
#define MBU_CUDA_KERNEL(name, ...) name,
#include "cuda/kernels.inc"
#undef MBU_CUDA_KERNEL
};

// Ends with an empty entry that the count leaves out.
extern const KernelInfo kKernels[];
extern const int kKernelCount;

// sm_86: machine code. sm_90a: machine code for that capability alone. compute_80: PTX.
struct Target {
  int arch;
  char variant;
  bool ptx;
};

std::string name_of(const Target& target);
std::vector<Target> targets_of(const char* list);

// The rules of CUDA: machine code runs on cards of the same major and the same or a later minor capability,
// variant 'a' on exactly its own, PTX on the same and later ones. `capability` is 86 for 8.6.
bool runs(const Target& target, int capability);

// The target of `kernel` that serves a card: machine code before PTX, then the nearest. False: none does, and
// the kernel must not be launched there.
bool serving_target(const KernelInfo& kernel, int capability, Target& target);

// The images of `kernel` that may run on a card, best first: those of targets that the kernel itself names.
std::vector<const Image*> images_for(const KernelInfo& kernel, int capability);

}  // namespace mbu::cuda
