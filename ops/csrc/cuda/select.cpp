#include "cuda/select.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <tuple>

#include "cuda/params.h"

namespace mbu::cuda {

const KernelInfo kKernels[] = {
#define MBU_CUDA_KERNEL(name, stem, targets, params, threads, shared_bytes, pixels, channels) \
  {#name, stem, targets, static_cast<int>(sizeof(params)), threads, shared_bytes, pixels, channels},
#include "cuda/kernels.inc"
#undef MBU_CUDA_KERNEL
    {}};
const int kKernelCount = static_cast<int>(sizeof(kKernels) / sizeof(kKernels[0])) - 1;

namespace {

// Smaller is better.
auto rank(const Target& t) {
  return std::make_tuple(t.ptx, -t.arch, t.variant == ' ');
}

Target target_of(const Image& image) {
  return {image.arch, image.variant, image.ptx};
}

}  // namespace

std::string name_of(const Target& target) {
  return (target.ptx ? "compute_" : "sm_") + std::to_string(target.arch) +
         (target.variant == ' ' ? "" : std::string(1, target.variant));
}

std::vector<Target> targets_of(const char* list) {
  std::vector<Target> targets;
  for (const char* at = list; *at;) {
    if (!std::isdigit(static_cast<unsigned char>(*at))) {
      ++at;
      continue;
    }
    // The word before the number is "sm_" or "compute_".
    const bool ptx = at - list >= 8 && !std::strncmp(at - 8, "compute_", 8);
    Target target{0, ' ', ptx};
    for (; std::isdigit(static_cast<unsigned char>(*at)); ++at) target.arch = target.arch * 10 + (*at - '0');
    if (std::isalpha(static_cast<unsigned char>(*at))) target.variant = *at++;
    targets.push_back(target);
  }
  return targets;
}

bool runs(const Target& target, int capability) {
  if (target.variant != ' ') return !target.ptx && target.arch == capability;
  if (target.ptx) return target.arch <= capability;
  return target.arch / 10 == capability / 10 && target.arch <= capability;
}

bool serving_target(const KernelInfo& kernel, int capability, Target& target) {
  bool found = false;
  for (const Target& candidate : targets_of(kernel.targets)) {
    if (!runs(candidate, capability) || (found && rank(target) <= rank(candidate))) continue;
    target = candidate;
    found = true;
  }
  return found;
}

std::vector<const Image*> images_for(const KernelInfo& kernel, int capability) {
  const std::vector<Target> named = targets_of(kernel.targets);
  std::vector<const Image*> found;
  for (int i = 0; i < kImageCount; ++i) {
    const Target target = target_of(kImages[i]);
    const auto same = [&](const Target& t) { return rank(t) == rank(target) && t.variant == target.variant; };
    if (!std::strcmp(kImages[i].stem, kernel.stem) && runs(target, capability) &&
        std::any_of(named.begin(), named.end(), same))
      found.push_back(&kImages[i]);
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Image* a, const Image* b) { return rank(target_of(*a)) < rank(target_of(*b)); });
  return found;
}

}  // namespace mbu::cuda
