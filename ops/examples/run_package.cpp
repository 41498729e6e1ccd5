// Runs a network that `lightning_mbu.export` has compiled, without Python:
//   run_package net.pt2 _C.abi3.so input.f32 N C H W output.f32
// Input and output are float32 in memory order. docs/export.md says how to build it.
#include <dlfcn.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

// Compiled code checks no sizes and would read past the image, so the package says what it takes.
static void check(const std::unordered_map<std::string, std::string>& facts,
                  const std::vector<int64_t>& shape) {
  if (shape[0] < 1 || shape[1] != std::stol(facts.at("mbu_channels")))
    throw std::invalid_argument("the input has " + std::to_string(shape[0]) + " images of " +
                                std::to_string(shape[1]) + " channels; this package takes at least one of " +
                                facts.at("mbu_channels"));
  for (int axis : {2, 3}) {
    const std::string name = axis == 2 ? "height" : "width", takes = facts.at("mbu_" + name);
    int64_t smallest = 0, largest = 0, multiple = 1;
    std::istringstream(takes) >> smallest >> largest >> multiple;
    if (shape[axis] < smallest || shape[axis] > largest || shape[axis] % multiple)
      throw std::invalid_argument("the " + name + " is " + std::to_string(shape[axis]) +
                                  " pixels; this package takes (smallest, largest, multiple) " + takes);
  }
}

int main(int count, char** arguments) {
  if (count != 9) {
    std::fprintf(stderr, "usage: run_package net.pt2 _C.abi3.so input.f32 N C H W output.f32\n");
    return 2;
  }
  // Loading the library registers torch.ops.mbu.*. Lazily: it is a Python module too, and nothing here calls
  // Python.
  if (dlopen(arguments[2], RTLD_LAZY | RTLD_GLOBAL) == nullptr) {
    std::fprintf(stderr, "the operations cannot be loaded: %s\n", dlerror());
    return 1;
  }
  try {
    const std::vector<int64_t> shape = {std::stol(arguments[4]), std::stol(arguments[5]),
                                        std::stol(arguments[6]), std::stol(arguments[7])};
    torch::inductor::AOTIModelPackageLoader network(arguments[1]);
    check(network.get_metadata(), shape);
    const c10::InferenceMode inference;
    at::Tensor image = at::empty(shape, at::kFloat);
    std::ifstream input(arguments[3], std::ios::binary);
    if (!input.read(static_cast<char*>(image.data_ptr()), static_cast<std::streamsize>(image.nbytes()))) {
      std::fprintf(stderr, "%s holds less than %zu bytes\n", arguments[3], image.nbytes());
      return 1;
    }
    const at::Tensor output = network.run({image}).at(0).contiguous();
    std::ofstream(arguments[8], std::ios::binary)
        .write(static_cast<const char*>(output.data_ptr()), static_cast<std::streamsize>(output.nbytes()));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
