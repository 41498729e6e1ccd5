// A matrix product of packed rows on the emulator, for Python: planned as by the library, run by a kernel.
#include <deque>
#include <string>

#include "cuda/plan_gemm.h"
#include "guarded.h"
#include "registry.h"

using namespace mbu::cuda;

namespace {

// Mirrored by _GemmCase in gemm.py. A null output is one that the kernel does not write.
struct GemmCase {
  int64_t rows, words, stride, out_channels, planes;
  const void *input, *weight, *threshold, *flip;
  void *bits, *sums;
  int64_t late_copies, warps_backwards;
};

std::string run(const std::string& name, const GemmCase& c) {
  const emu::Kernel* kernel = emu::find_kernel(name);
  if (!kernel) return "no kernel " + name;
  emu::forget_global();
  std::deque<emu::Guarded> memory;
  const auto put = [&](const void* from, int64_t bytes, bool writable) -> emu::Guarded* {
    return from ? &memory.emplace_back(from, static_cast<uint64_t>(bytes), writable) : nullptr;
  };
  const DeviceLayout layout =
      name.find("_and") != std::string::npos ? DeviceLayout::and_popc : DeviceLayout::xor_popc;
  const DeviceWeight weight{layout, c.out_channels, 1, c.words};
  std::string laid_out(static_cast<size_t>(weight.size()) * 4, '\0');
  lay_out_weight(static_cast<const mbu::Word*>(c.weight), weight,
                 reinterpret_cast<int32_t*>(laid_out.data()));
  GemmParams p{};
  const Product product{c.rows, c.words, c.stride, c.out_channels,
                        is_binary(static_cast<const mbu::Word*>(c.weight), weight)};
  const auto* device = put(laid_out.data(), weight.size() * 4, false)->as<const int32_t>();
  if (const char* reason = plan_gemm(product, layout, device, p)) return reason;
  const int64_t out_words = mbu::words_of(c.out_channels);
  p.input = put(c.input, ((c.rows - 1) * c.stride + c.words) * 4, false)->as<const mbu::Word>();
  p.planes = static_cast<int32_t>(c.planes);
  emu::Guarded* bits = put(c.bits, c.rows * c.planes * out_words * 4, true);
  emu::Guarded* sums = put(c.sums, c.rows * c.out_channels * 4, true);
  if (bits) {
    p.bits = bits->as<mbu::Word>();
    p.threshold = put(c.threshold, c.planes * c.out_channels * 4, false)->as<const int32_t>();
    p.flip = put(c.flip, c.planes * out_words * 4, false)->as<const mbu::Word>();
  } else {
    p.sums = sums->as<float>();
  }
  const Grid grid = gemm_grid(p, kernel->tile_pixels, kernel->tile_channels);
  const std::string error =
      emu::run({[&] { kernel->call(&p); }, {grid.x, grid.y, grid.z}, kernel->threads, kernel->shared_bytes},
               {c.late_copies != 0, c.warps_backwards != 0, true});
  if (bits) bits->copy_to(c.bits);
  if (sums) sums->copy_to(c.sums);
  return error;
}

}  // namespace

extern "C" const char* emulate_gemm(const char* kernel, const GemmCase* given) {
  static std::string error;
  error = run(kernel, *given);
  return error.c_str();
}
