// What a core gives at best without memory: multiply-adds per nanosecond of the innermost instructions of the
// x86 kernels, every operand in a register; with Winograd's form those of the layer, four for a product.
//
//   g++ -O2 -std=c++20 ops/bench/popcount_rates.cpp -o /tmp/popcount_rates && /tmp/popcount_rates
//
// A kernel adds to this loads, pixels' addresses, counters that are widened, and an epilogue. For tile
// products see amx_rates.cpp. Assembly, because a compiler would take out of the loop what never changes;
// results mean nothing.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>

namespace {

// A tenth of a millisecond, so that some of the rounds meet no other process.
constexpr int64_t kSteps = 20'000, kRounds = 4000;

// Eight independent counters, so that no instruction waits for the one before.
#define FOR_EIGHT(step) step(0) step(1) step(2) step(3) step(4) step(5) step(6) step(7)

// (a ^ sign) & mask of 16 words, counted and added: conv2d_12x32__avx512vpopcnt.cpp.
#define MASKED(i)                                \
  "vpternlogd $0x28, %%zmm29, %%zmm28, %%zmm" #i \
  "\n\t"                                         \
  "vpopcntd %%zmm" #i                            \
  ", %%zmm18\n\t"                                \
  "vpaddd %%zmm18, %%zmm2" #i ", %%zmm2" #i "\n\t"
// Two words through an adder, count_pair there: three logic operations and one count.
#define BINARY(i)                                     \
  "vpternlogd $0x96, %%zmm29, %%zmm28, %%zmm" #i      \
  "\n\t"                                              \
  "vpternlogd $0x96, %%zmm31, %%zmm30, %%zmm" #i      \
  "\n\t"                                              \
  "vpternlogd $0x74, %%zmm" #i ", %%zmm28, %%zmm1" #i \
  "\n\t"                                              \
  "vpopcntd %%zmm1" #i                                \
  ", %%zmm18\n\t"                                     \
  "vpaddd %%zmm18, %%zmm2" #i ", %%zmm2" #i "\n\t"
// Bytes multiplied, four for each of 16 sums: winograd_4x4.h, where 36 such products do the
// work of 144.
#define MULTIPLY(i)                      \
  "vpdpbusd %%zmm29, %%zmm28, %%zmm1" #i \
  "\n\t"                                 \
  "vpdpbusd %%zmm29, %%zmm28, %%zmm2" #i "\n\t"
// Sums of four weights looked up for 64 or 32 pixels, and added: codebook.h.
#define LOOK_UP_512(i)                 \
  "vpshufb %%zmm29, %%zmm28, %%zmm" #i \
  "\n\t"                               \
  "vpaddb %%zmm" #i ", %%zmm2" #i ", %%zmm2" #i "\n\t"
#define LOOK_UP_256(i)                    \
  "vpshufb %%ymm14, %%ymm15, %%ymm13\n\t" \
  "vpaddb %%ymm13, %%ymm" #i ", %%ymm" #i "\n\t"

// The best round of a loop that does `products` in each step.
template <class Loop>
double rate(int64_t products, Loop loop) {
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    loop();
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(kSteps * products) / time.count());
  }
  return best;
}

// Registers above 15 are out of the compiler's reach without AVX-512.
#define LOOP(step)                                                                                       \
  [] {                                                                                                   \
    int64_t left = kSteps;                                                                               \
    asm volatile("1:\n\t" FOR_EIGHT(step) "dec %0\n\tjnz 1b\n\tvzeroupper"                               \
                 : "+r"(left)                                                                            \
                 :                                                                                       \
                 : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
                   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                                \
  }

}  // namespace

int main() {
  if (__builtin_cpu_supports("avx512vpopcntdq")) {
    std::printf("avx512vpopcnt, masked: %4.0f multiply-adds per ns\n", rate(8 * 16 * 32, LOOP(MASKED)));
    std::printf("avx512vpopcnt, binary: %4.0f multiply-adds per ns\n", rate(8 * 2 * 16 * 32, LOOP(BINARY)));
  }
  if (__builtin_cpu_supports("avx512vnni"))
    std::printf("avx512vnni, Winograd: %4.0f multiply-adds per ns\n",
                rate(4 * 8 * 2 * 16 * 4, LOOP(MULTIPLY)));
  if (__builtin_cpu_supports("avx512bw"))
    std::printf("avx512bw, codebook: %4.0f multiply-adds per ns\n", rate(8 * 64 * 4, LOOP(LOOK_UP_512)));
  if (__builtin_cpu_supports("avx2"))
    std::printf("avx2, codebook: %4.0f multiply-adds per ns\n", rate(8 * 32 * 4, LOOP(LOOK_UP_256)));
  return 0;
}
