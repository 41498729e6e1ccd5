// Kernels with one error each, and a right one: what the emulator must name
// (tests/ops/cuda/test_emulator.py).
#include "cuda/arithmetic.h"

namespace mbu::cuda {

constexpr Words<4> kWords = {};

MBU_DEVICE uint32_t own_place() {
  return static_cast<uint32_t>(thread_index()) * 16;
}
MBU_DEVICE uint32_t other_place() {
  return own_place() ^ 1024;  // of a thread in another warp
}

MBU_KERNEL void right(const MaxPool2dParams p) {
  copy_async<4>(own_place(), p.input + thread_index() * 4, true);
  commit_copies();
  wait_copies<0>();
  barrier();
  const auto words = load_shared<4>(other_place());
  p.output[thread_index()] = words.word[3];
}
MBU_KERNEL void reads_before_the_wait(const MaxPool2dParams p) {
  copy_async<4>(own_place(), p.input, true);
  commit_copies();
  load_shared<4>(own_place());
}
MBU_KERNEL void waits_for_an_older_group(const MaxPool2dParams p) {
  copy_async<4>(own_place(), p.input, true);
  commit_copies();
  wait_copies<1>();
  load_shared<4>(own_place());
}
MBU_KERNEL void forgets_to_commit(const MaxPool2dParams p) {
  copy_async<4>(own_place(), p.input, true);
  wait_copies<0>();
  load_shared<4>(own_place());
}
MBU_KERNEL void leaves_a_copy(const MaxPool2dParams p) {
  copy_async<4>(own_place(), p.input, true);
  commit_copies();
}
MBU_KERNEL void reads_without_barrier(const MaxPool2dParams) {
  store_shared<4>(own_place(), kWords);
  load_shared<4>(other_place());
}
MBU_KERNEL void overwrites_what_others_read(const MaxPool2dParams) {
  store_shared<4>(own_place(), kWords);
  barrier();
  load_shared<4>(other_place());
  store_shared<4>(own_place(), kWords);
}
MBU_KERNEL void copies_over_what_others_read(const MaxPool2dParams p) {
  store_shared<4>(own_place(), kWords);
  barrier();
  load_shared<4>(other_place());
  copy_async<4>(own_place(), p.input, true);
  commit_copies();
  wait_copies<0>();
  barrier();
}
MBU_KERNEL void writes_what_others_wrote(const MaxPool2dParams) {
  store_shared<4>(own_place(), kWords);
  store_shared<4>(other_place(), kWords);
}
MBU_KERNEL void reads_nothing(const MaxPool2dParams) {
  load_shared<4>(own_place());
}
MBU_KERNEL void misaligned(const MaxPool2dParams) {
  store_shared<4>(own_place() + 4, kWords);
}
MBU_KERNEL void beyond_shared_memory(const MaxPool2dParams) {
  store_shared<1>(own_place() + 1024, {});
}
MBU_KERNEL void half_a_warp(const MaxPool2dParams) {
  if (thread_index() % 2) ballot(true);
}
MBU_KERNEL void different_operations(const MaxPool2dParams) {
  if (thread_index() % 2)
    ballot(true);
  else
    shuffle_xor(1, 1);
}
MBU_KERNEL void copies_from_beyond(const MaxPool2dParams p) {
  copy_async<4>(own_place(), p.input + thread_index() * 4 + 4, true);
  commit_copies();
  wait_copies<0>();
}
MBU_KERNEL void reads_beyond(const MaxPool2dParams p) {
  p.output[thread_index()] = p.input[512];
}

}  // namespace mbu::cuda
