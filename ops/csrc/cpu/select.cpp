// Chooses the kernel. A kernel runs only where processor and operating system both say that it can: an
// instruction the processor lacks would end the process with SIGILL.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "cpu/kernels.h"

namespace mbu {

#define MBU_CPU_KERNEL(name, isa, predicate, layout, expanded, suits, conv, adds_stream, row) \
  void conv2d_##conv(const Conv2dTile&);                                                      \
  void pack__##row(const PackRow&);                                                           \
  void unpack__##row(const UnpackRow&);                                                       \
  void add_residual__##row(const ResidualRow&);                                               \
  void finish_row__##row(const StreamRow&);                                                   \
  void or_rows__##row(const Word* const*, int64_t, int64_t, Word*);                           \
  void stem_tile__##row(const StemTile&);                                                     \
  void head_row__##row(const HeadRow&);                                                       \
  void head_windows__##row(const HeadWindows&);                                               \
  void upsample_row__##row(const UpsampleRow&);
#include "cpu/kernels.inc"
#undef MBU_CPU_KERNEL

bool suits_winograd(const Conv2dParams&);

namespace {

[[maybe_unused]] bool has_always() {
  return true;
}

#if defined(__x86_64__)
// Processor features of cpuid leaves 1 and 7, all zero where the operating system does not save the
// registers.
struct Features {
  unsigned leaf1_c = 0, leaf7_b = 0, leaf7_c = 0;
};

constexpr unsigned kAvxState = 0x06;      // xmm, ymm
constexpr unsigned kAvx512State = 0xe6;   // and opmask, upper zmm, zmm16-31
constexpr unsigned kTileState = 0x60000;  // tile configuration, tile data

// A compiler that is given AVX2 or AVX-512 takes these along, whether a kernel names them or not.
constexpr unsigned kLeaf1 =
    bit_SSE3 | bit_SSSE3 | bit_SSE4_1 | bit_SSE4_2 | bit_POPCNT | bit_AVX | bit_FMA | bit_F16C;

Features features(unsigned state) {
  Features result;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return {};
  result.leaf1_c = c;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & state) != state) return {};
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return {};
  result.leaf7_b = b;
  result.leaf7_c = c;
  return result;
}

bool has_avx2() {
  const Features f = features(kAvxState);
  return (f.leaf1_c & kLeaf1) == kLeaf1 && (f.leaf7_b & bit_AVX2);
}

bool has_avxvnni() {
  unsigned a, b, c, d;
  constexpr unsigned kAvxVnni = 1u << 4;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kAvxVnni);
}

bool has_avx512bw() {
  constexpr unsigned kB = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ | bit_BMI2;
  return has_avx2() && (features(kAvx512State).leaf7_b & kB) == kB;
}

bool has_avx512vnni() {
  return has_avx512bw() && (features(kAvx512State).leaf7_c & bit_AVX512VNNI);
}

bool has_avx512vpopcnt() {
  return has_avx512bw() && (features(kAvx512State).leaf7_c & bit_AVX512VPOPCNTDQ);
}
#elif defined(__aarch64__)
bool has_neonsha3() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_SHA3;
#else
  return false;  // not asked elsewhere: the plain kernel runs
#endif
}

bool has_neondot() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
  return false;
#endif
}

bool has_neoni8mm() {
#if defined(__linux__)
  constexpr unsigned long kI8mm = 1ul << 13;  // HWCAP2_I8MM, which older headers do not name
  return getauxval(AT_HWCAP2) & kI8mm;
#else
  return false;
#endif
}
#endif

#if defined(__x86_64__) && defined(__linux__)
// Linux keeps the 8 KiB of tile registers from a process until it asks for them, once for all its threads.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool has_amx_int8() {
  static const bool has = [] {
    if (!has_avx512vpopcnt() || !(features(kAvx512State).leaf7_c & bit_AVX512VBMI)) return false;
    if (!features(kTileState).leaf7_b) return false;
    unsigned a, b, c, d;
    constexpr unsigned kAvx512Bf16 = 1u << 5, kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || (a & kAvx512Bf16) == 0) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kAmxTile) == 0 || (d & kAmxInt8) == 0) return false;
    // Palette 1: bytes per row, number of tiles, rows. The kernel uses 8 tiles of 16 rows of 64 bytes.
    if (!__get_cpuid_count(0x1d, 1, &a, &b, &c, &d)) return false;
    return (b & 0xffff) >= 64 && (b >> 16) >= 8 && (c & 0xffff) >= 16 && may_use_tiles();
  }();
  return has;
}
#endif

const CpuKernel kKernels[] = {
#define MBU_CPU_KERNEL(name, isa, predicate, layout, expanded, suits, conv, adds_stream, row) \
  {#name,                                                                                     \
   isa,                                                                                       \
   WeightLayout::layout,                                                                      \
   expanded,                                                                                  \
   predicate,                                                                                 \
   suits,                                                                                     \
   conv2d_##conv,                                                                             \
   adds_stream,                                                                               \
   pack__##row,                                                                               \
   unpack__##row,                                                                             \
   add_residual__##row,                                                                       \
   finish_row__##row,                                                                         \
   or_rows__##row,                                                                            \
   stem_tile__##row,                                                                          \
   head_row__##row,                                                                           \
   head_windows__##row,                                                                       \
   upsample_row__##row},
#include "cpu/kernels.inc"
#undef MBU_CPU_KERNEL
};

std::atomic<const CpuKernel*> selected{nullptr};

const CpuKernel* find(const char* name) {
  std::string known;
  for (const CpuKernel& kernel : kKernels) {
    if (!std::strcmp(kernel.name, name)) {
      if (kernel.available()) return &kernel;
      throw std::runtime_error(std::string("CPU kernel '") + name + "' needs " + kernel.isa +
                               ", which this processor or operating system does not offer; unset "
                               "MBU_CPU_KERNEL to let the best available kernel run");
    }
    known += (known.empty() ? "" : ", ") + std::string(kernel.name);
  }
  throw std::runtime_error(std::string("unknown CPU kernel '") + name + "'; this library has: " + known);
}

const CpuKernel* choose() {
  const char* wanted = std::getenv("MBU_CPU_KERNEL");
  if (wanted && *wanted) return find(wanted);
  for (const CpuKernel& kernel : kKernels)
    if (kernel.available()) return &kernel;
  return nullptr;  // not reached: the portable kernel is always available
}

}  // namespace

const CpuKernel& cpu_kernel() {
  const CpuKernel* kernel = selected.load(std::memory_order_acquire);
  if (!kernel) {
    kernel = choose();
    selected.store(kernel, std::memory_order_release);
  }
  return *kernel;
}

const CpuKernel& kernel_for(const CpuKernel& kernel, const Conv2dParams& params) {
  if (!kernel.suits || kernel.suits(params)) return kernel;
  // Asked for once: in a virtual machine cpuid takes as long as a small layer.
  static const std::array others = [] {
    std::array<const CpuKernel*, std::size(kKernels)> found{};
    for (size_t i = 0; i < found.size(); ++i) {
      const auto computes_all = [&](const CpuKernel& other) {
        return !other.suits && other.layout == kKernels[i].layout && other.available();
      };
      found[i] = std::find_if(kKernels + i, std::end(kKernels), computes_all);
    }
    return found;
  }();
  return *others[static_cast<size_t>(&kernel - kKernels)];
}

}  // namespace mbu

// Read by mbu_ops/backends.py through ctypes.
#define MBU_EXPORT extern "C" __attribute__((visibility("default")))

MBU_EXPORT int mbu_cpu_kernel_count() {
  return static_cast<int>(sizeof(mbu::kKernels) / sizeof(mbu::kKernels[0]));
}
MBU_EXPORT const char* mbu_cpu_kernel_name(int i) {
  return mbu::kKernels[i].name;
}
MBU_EXPORT const char* mbu_cpu_kernel_isa(int i) {
  return mbu::kKernels[i].isa;
}
MBU_EXPORT const char* mbu_cpu_kernel_layout(int i) {
  return name_of(mbu::kKernels[i].layout);
}
MBU_EXPORT int mbu_cpu_kernel_available(int i) {
  return mbu::kKernels[i].available();
}

// The name of the kernel in use, or null with the reason in `message` (at most `size` bytes).
MBU_EXPORT const char* mbu_cpu_kernel_selected(char* message, int size) {
  try {
    return mbu::cpu_kernel().name;
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), static_cast<size_t>(size) - 1);
    message[size - 1] = 0;
    return nullptr;
  }
}

// Uses kernel `name` from now on; an empty name returns to the automatic choice. 0, or 1 with `message` set.
MBU_EXPORT int mbu_cpu_kernel_force(const char* name, char* message, int size) {
  try {
    mbu::selected.store(*name ? mbu::find(name) : nullptr, std::memory_order_release);
    return 0;
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), static_cast<size_t>(size) - 1);
    message[size - 1] = 0;
    return 1;
  }
}
