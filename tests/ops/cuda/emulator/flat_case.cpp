// The kernels over flat lists on the emulator, for Python: memory from the caller's arrays, launches from
// cuda/plan_flat.h.
#include <deque>
#include <functional>
#include <map>
#include <string>

#include "cuda/plan_flat.h"
#include "guarded.h"
#include "registry.h"

using namespace mbu::cuda;

namespace {

// Mirrored by FlatCase in tests/ops/cuda/flat.py. What `number` holds, each operation reads in order.
struct FlatCase {
  const void* input[5];
  int64_t input_bytes[5];
  void* output[2];
  int64_t output_bytes[2];
  int64_t number[64];
  int64_t backwards;
};

struct Memory {
  const void* input[5];
  void* output[2];
};

class Numbers {
 public:
  explicit Numbers(const int64_t* from) : next_(from) {}
  template <class... Fields>
  void into(Fields&... fields) {
    ((fields = static_cast<Fields>(*next_++)), ...);
  }
  ImageSize image() {
    ImageSize size{};
    into(size.batch, size.height, size.width);
    return size;
  }

 private:
  const int64_t* next_;
};

template <class T>
T* as(const void* pointer) {
  return static_cast<T*>(const_cast<void*>(pointer));
}

template <class Params>
std::string run(const emu::Kernel& kernel, const Params& p, uint32_t blocks, const FlatCase& c) {
  if (!blocks) return "no launch takes this many items";
  return emu::run({[&] { kernel.call(&p); }, {blocks, 1, 1}, kernel.threads, kernel.shared_bytes},
                  {true, c.backwards != 0});
}

std::string pack(const emu::Kernel& kernel, const FlatCase& c, const Memory& m) {
  PackParams p{};
  Numbers n(c.number);
  const ImageSize image = n.image();
  n.into(p.kind, p.channels, p.planes, p.stride_n, p.stride_c, p.stride_h, p.stride_w);
  p.input = m.input[0];
  p.threshold = as<const float>(m.input[1]);
  p.flip = as<const mbu::Word>(m.input[2]);
  p.gate = as<const float>(m.input[3]);
  p.output = as<mbu::Word>(m.output[0]);
  const uint32_t blocks = plan_pack(image, p);
  return run(kernel, p, blocks, c);
}

std::string unpack(const emu::Kernel& kernel, const FlatCase& c, const Memory& m) {
  UnpackParams p{};
  Numbers n(c.number);
  const ImageSize image = n.image();
  n.into(p.channels, p.stride_n, p.stride_h, p.stride_w);
  p.input = as<const mbu::Word>(m.input[0]);
  p.output = as<float>(m.output[0]);
  const uint32_t blocks = plan_unpack(image, p);
  return run(kernel, p, blocks, c);
}

// Parts that lie in one tensor, whose words of a pixel are side by side; each is its upper left corner of a
// size.
std::string join_bits(const emu::Kernel& kernel, const FlatCase& c, const Memory& m) {
  JoinBitsParams p{};
  Numbers n(c.number);
  const ImageSize image = n.image();
  int64_t words = 0, stride_n = 0, stride_h = 0, stride_w = 0;
  n.into(words, p.parts, stride_n, stride_h, stride_w);
  const auto* from = as<const mbu::Word>(m.input[0]);
  for (int32_t i = 0; i < p.parts; ++i) {
    p.part[i] = {from, stride_n, stride_h, stride_w, 0, 0, 0, 0, 0};
    n.into(p.part[i].channels, p.part[i].height, p.part[i].width);
    from += (p.part[i].channels + 31) / 32;
  }
  p.output = as<mbu::Word>(m.output[0]);
  const uint32_t blocks = plan_join_bits(image, words, p);
  return run(kernel, p, blocks, c);
}

int vector_of(const emu::Kernel& kernel) {
  return std::string(kernel.name).find("_v4") != std::string::npos ? 4 : 1;
}

std::string max_pool2d(const emu::Kernel& kernel, const FlatCase& c, const Memory& m) {
  MaxPool2dParams p{};
  Numbers n(c.number);
  const ImageSize output = n.image();
  int64_t words = 0;
  n.into(words, p.height, p.width, p.stride_n, p.stride_h, p.stride_w, p.kernel_h, p.kernel_w, p.stride_y,
         p.stride_x, p.padding_h, p.padding_w, p.dilation_h, p.dilation_w);
  p.input = as<const mbu::Word>(m.input[0]);
  p.output = as<mbu::Word>(m.output[0]);
  const uint32_t blocks = plan_max_pool2d(output, words, vector_of(kernel), p);
  return run(kernel, p, blocks, c);
}

std::string stem(const emu::Kernel& kernel, const FlatCase& c, const Memory& m) {
  StemParams p{};
  Numbers n(c.number);
  const ImageSize output = n.image();
  n.into(p.channels, p.height, p.width, p.stride_n, p.stride_c, p.stride_h, p.stride_w, p.out_channels,
         p.kernel_h, p.kernel_w, p.stride_y, p.stride_x, p.padding_h, p.padding_w, p.dilation_h, p.dilation_w,
         p.planes, p.stream.steps, p.stream.relu, p.stream.kind);
  p.input = as<const float>(m.input[0]);
  p.weight = as<const float>(m.input[1]);
  p.stream.affine = as<const float>(m.input[2]);
  p.stream.threshold = as<const float>(m.input[3]);
  p.flip = as<const mbu::Word>(m.input[4]);
  p.bits = as<mbu::Word>(m.output[0]);
  p.stream.output = m.output[1];
  const uint32_t blocks = plan_stem(output, p);
  return run(kernel, p, blocks, c);
}

std::string run_named(const std::string& name, const FlatCase& c) {
  using Operation = std::string (*)(const emu::Kernel&, const FlatCase&, const Memory&);
  static const std::map<std::string, Operation> operations = {
      {"pack", pack}, {"unpack", unpack}, {"join", join_bits}, {"max", max_pool2d}, {"stem", stem}};
  const emu::Kernel* kernel = emu::find_kernel(name);
  if (!kernel) return "no kernel " + name;
  emu::forget_global();
  std::deque<emu::Guarded> guarded;
  Memory memory{};
  for (int i = 0; i < 5; ++i)
    if (c.input[i])
      memory.input[i] =
          guarded.emplace_back(c.input[i], static_cast<uint64_t>(c.input_bytes[i]), false).as<void>();
  emu::Guarded* output[2] = {};
  for (int i = 0; i < 2; ++i)
    if (c.output[i]) {
      output[i] = &guarded.emplace_back(c.output[i], static_cast<uint64_t>(c.output_bytes[i]), true);
      memory.output[i] = output[i]->as<void>();
    }
  const std::string error = operations.at(name.substr(0, name.find('_')))(*kernel, c, memory);
  for (int i = 0; i < 2; ++i)
    if (output[i]) output[i]->copy_to(c.output[i]);
  return error;
}

}  // namespace

extern "C" const char* emulate_flat(const char* kernel, const FlatCase* given) {
  static std::string error;
  error = run_named(kernel, *given);
  return error.c_str();
}
