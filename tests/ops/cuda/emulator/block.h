// What one thread block owns. Shared by the emulator's own files.
#pragma once
#include <vector>

#include "emulator.h"

namespace emu {

constexpr int kNobody = -1, kSeveral = -2;

// What is known of one word of shared memory.
struct Cell {
  bool written = false;
  bool in_flight = false;                    // an asynchronous copy has been issued and not waited for
  int writer = kNobody, reader = kNobody;    // threads
  uint64_t write_epoch = 0, read_epoch = 0;  // barriers passed when it was
};

struct Copy {
  uint32_t offset;
  std::vector<char> data;
};

struct Block {
  Place place{};
  Options options{};
  uint64_t epoch = 1;  // barriers passed by the block
  std::vector<char> shared;
  std::vector<Cell> cells;
  struct Copies {
    std::vector<std::vector<Copy>> groups;  // committed, oldest first
    std::vector<Copy> open;
  };
  std::vector<Copies> copies;  // of each thread

  void start(const Place& at, uint32_t shared_bytes, const Options& with);
};

extern Block* block;

// A thread leaves: its copies must have been waited for.
void check_exit();

}  // namespace emu
