// Threads as fibers: entered once by makecontext, then switched by setjmp and longjmp, which make no system
// call.
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "block.h"

namespace emu {

Block* block = nullptr;

namespace {

constexpr size_t kStackBytes = 128 << 10;

enum class State { ready, at_warp, at_barrier, done };

struct Fiber {
  jmp_buf context;
  ucontext_t first;
  std::unique_ptr<char[]> stack;
  State state = State::ready;
  bool entered = false;
};

struct Warp {
  int arrived = 0, phase = 0;
  const char* operation = nullptr;
  uint32_t words[2][32][kExchanged];
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
jmp_buf scheduler, escape;
std::string message;
const std::function<void()>* body;

void leave(State state) {
  Fiber& fiber = fibers[block->place.thread];
  fiber.state = state;
  if (_setjmp(fiber.context) == 0) _longjmp(scheduler, 1);
}

void enter() {
  (*body)();
  check_exit();
  fibers[block->place.thread].state = State::done;
  _longjmp(scheduler, 1);
}

void resume(uint32_t thread) {
  block->place.thread = thread;
  Fiber& fiber = fibers[thread];
  if (_setjmp(scheduler) != 0) return;
  if (fiber.entered) _longjmp(fiber.context, 1);
  fiber.entered = true;
  getcontext(&fiber.first);
  fiber.first.uc_stack.ss_sp = fiber.stack.get();
  fiber.first.uc_stack.ss_size = kStackBytes;
  fiber.first.uc_link = nullptr;
  makecontext(&fiber.first, enter, 0);
  setcontext(&fiber.first);
}

// Runs a warp until each of its threads waits for the block or is done.
void run_warp(uint32_t warp) {
  for (bool moved = true; moved;) {
    moved = false;
    for (uint32_t thread = warp * 32; thread < warp * 32 + 32; ++thread) {
      if (fibers[thread].state != State::ready) continue;
      resume(thread);
      moved = true;
    }
  }
}

void run_block(const Options& options) {
  const auto count = static_cast<uint32_t>(warps.size());
  for (Fiber& fiber : fibers) fiber.state = State::ready, fiber.entered = false;
  for (Warp& warp : warps) warp = {};
  for (;;) {
    for (uint32_t i = 0; i < count; ++i) run_warp(options.warps_backwards ? count - 1 - i : i);
    bool waiting = false;
    for (uint32_t thread = 0; thread < fibers.size(); ++thread) {
      if (fibers[thread].state == State::at_warp) {
        block->place.thread = thread;
        fault("waits in " + std::string(warps[thread / 32].operation) + " for lanes that never come");
      }
      waiting |= fibers[thread].state == State::at_barrier;
    }
    if (!waiting) return;
    // A thread that has left counts as arrived, as on the hardware.
    ++block->epoch;
    for (Fiber& fiber : fibers)
      if (fiber.state == State::at_barrier) fiber.state = State::ready;
  }
}

void on_segmentation_fault(int, siginfo_t* info, void*) {
  char text[80];
  std::snprintf(text, sizeof text, "reaches outside of global memory at %p", info->si_addr);
  fault(text);
}

}  // namespace

const Place& place() {
  return block->place;
}

void fault(const std::string& what) {
  const Place& at = block->place;
  char text[120];
  std::snprintf(text, sizeof text, "block (%u, %u, %u), thread %u ", at.block[0], at.block[1], at.block[2],
                at.thread);
  message = text + what;
  siglongjmp(escape, 1);
}

void barrier() {
  leave(State::at_barrier);
}

Lanes exchange(const char* operation, const uint32_t* words, int count) {
  const uint32_t thread = block->place.thread;
  Warp& warp = warps[thread / 32];
  if (warp.arrived == 0) warp.operation = operation;
  if (warp.operation != operation)
    fault("meets others of its warp in " + std::string(warp.operation) + " while it is in " + operation);
  const int phase = warp.phase;
  for (int i = 0; i < count; ++i) warp.words[phase][thread % 32][i] = words[i];
  if (++warp.arrived < 32) {
    leave(State::at_warp);
  } else {
    // The next operation fills the other half, while slower lanes still read this one.
    warp.arrived = 0;
    warp.phase ^= 1;
    for (uint32_t i = thread / 32 * 32; i < thread / 32 * 32 + 32; ++i)
      if (fibers[i].state == State::at_warp) fibers[i].state = State::ready;
  }
  return warp.words[phase];
}

std::string run(const Launch& launch, const Options& options) {
  if (launch.threads == 0 || launch.threads % 32) return "threads must be whole warps";
  std::vector<char> signal_stack(64 << 10);
  stack_t alternate{}, before{};
  alternate.ss_sp = signal_stack.data();
  alternate.ss_size = signal_stack.size();
  struct sigaction action{}, previous{};
  action.sa_sigaction = on_segmentation_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaltstack(&alternate, &before);
  sigaction(SIGSEGV, &action, &previous);

  if (fibers.size() < launch.threads) fibers.clear();
  fibers.resize(launch.threads);
  for (Fiber& fiber : fibers)
    if (!fiber.stack) fiber.stack = std::make_unique<char[]>(kStackBytes);
  warps.assign(launch.threads / 32, {});
  body = &launch.kernel;
  message.clear();
  Block own;
  block = &own;
  if (sigsetjmp(escape, 1) == 0) {
    for (uint32_t z = 0; z < launch.grid[2]; ++z)
      for (uint32_t y = 0; y < launch.grid[1]; ++y)
        for (uint32_t x = 0; x < launch.grid[0]; ++x) {
          own.start({0, {x, y, z}, launch.threads, {launch.grid[0], launch.grid[1], launch.grid[2]}},
                    launch.shared_bytes, options);
          run_block(options);
        }
  }
  block = nullptr;
  sigaction(SIGSEGV, &previous, nullptr);
  sigaltstack(&before, nullptr);
  return message;
}

}  // namespace emu
