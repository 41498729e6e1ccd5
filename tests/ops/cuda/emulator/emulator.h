// A thread block of a GPU on the CPU. Every thread is a fiber; warps run one after another, each as far as it
// gets, so that whatever a barrier or a wait should have ordered happens in the wrong order where one is
// missing. Shared memory remembers who touched a word since the last barrier and which asynchronous copies
// are still on their way, so that such an error is named even where the result would have been right.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace emu {

struct Options {
  bool late_copies;      // asynchronous copies move their bytes at the wait that covers them, else at once
  bool warps_backwards;  // the last warp runs first
  // Words of shared memory that nobody has written may be read and hold nonsense: the loops of CUTLASS load a
  // step ahead, beyond the last one too, and do not use it.
  bool reads_ahead = false;
};

struct Launch {
  std::function<void()> kernel;  // the body of one thread
  uint32_t grid[3];
  uint32_t threads, shared_bytes;
};

// Runs every block; returns what a thread did wrong first, or nothing.
std::string run(const Launch& launch, const Options& options);

// Memory that kernels may touch. Anything else is an error (emulated PTX) or a forbidden page (C++).
void allow_global(const void* data, uint64_t bytes, bool writable);
void forget_global();

// The running thread.
struct Place {
  uint32_t thread, block[3], threads, grid[3];
};
const Place& place();

// Ends the launch with a message that names the thread.
[[noreturn]] void fault(const std::string& message);

void barrier();

// Warp operations: every lane gives `count` words and sees those of all lanes, as [lane][word]. The result
// is valid until the lane's next warp operation. All lanes must meet at the same operation.
constexpr int kExchanged = 8;
using Lanes = const uint32_t (*)[kExchanged];
Lanes exchange(const char* operation, const uint32_t* words, int count);

// Shared memory, by byte offset from the start of the block's dynamic shared memory.
void load_shared(uint32_t offset, void* to, uint32_t bytes);
void store_shared(uint32_t offset, const void* from, uint32_t bytes);
void copy_async(uint32_t offset, const void* from, uint32_t bytes, uint32_t present_bytes);
void commit_copies();
void wait_copies(uint32_t groups_left);

// Checks an access to global memory.
void check_global(const void* at, uint32_t bytes, bool write);

uint32_t shuffle(uint32_t value, uint32_t lane);
uint32_t shuffle_xor(uint32_t value, uint32_t mask);
uint32_t ballot(bool value);
void load_matrix_x4(uint32_t (&m)[4], uint32_t offset);
enum class Product { xor_popc, and_popc, s8 };
// One tensor-core instruction with 8 words of K for m16n8k256 and m16n8k32, 4 for m16n8k128 (half) and
// m8n8k128.
void mma_m16n8(Product product, int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_m16n8_half(Product product, int32_t (&c)[4], const uint32_t (&a)[2], uint32_t b);
void mma_m8n8(Product product, int32_t (&c)[2], uint32_t a, uint32_t b);
// One of four warps, 8 words of K; a and b describe matrices in shared memory without swizzling. It is done
// at once: products that should have been waited for are not found.
constexpr int kWgmmaSums = 128;
void wgmma_m64n256(Product product, int32_t (&c)[kWgmmaSums], uint64_t a, uint64_t b);

float half_to_float(uint16_t half);
uint16_t float_to_half(float value);

}  // namespace emu
