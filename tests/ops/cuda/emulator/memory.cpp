// Shared memory that keeps account of its words, and the asynchronous copies into it.
#include <cstring>
#include <map>

#include "block.h"

namespace emu {
namespace {

struct Range {
  uint64_t bytes;
  bool writable;
};
std::map<uint64_t, Range> ranges;  // by address

std::string at(uint32_t offset) {
  return "shared byte " + std::to_string(offset);
}

void check_range(uint32_t offset, uint32_t bytes) {
  if (offset % bytes)
    fault("uses " + at(offset) + " in a step of " + std::to_string(bytes) + " bytes, which is misaligned");
  if (uint64_t{offset} + bytes > block->shared.size())
    fault("uses " + at(offset) + " beyond the " + std::to_string(block->shared.size()) +
          " bytes of the block");
}

void check_overwrite(uint32_t offset, uint32_t bytes, const char* what) {
  check_range(offset, bytes);
  const int self = static_cast<int>(block->place.thread);
  for (uint32_t word = offset / 4; word < (offset + bytes) / 4; ++word) {
    const Cell& cell = block->cells[word];
    const auto met = [&](int other) {
      return " thread " + std::to_string(other) + " with no barrier in between";
    };
    if (cell.in_flight) fault(what + at(word * 4) + " while a copy to it is in flight");
    if (cell.writer != kNobody && cell.writer != self && cell.write_epoch == block->epoch)
      fault(what + at(word * 4) + ", written by" + met(cell.writer));
    if (cell.reader != kNobody && cell.reader != self && cell.read_epoch == block->epoch)
      fault(what + at(word * 4) + ", read by" + met(cell.reader));
  }
}

void mark_written(uint32_t offset, uint32_t bytes) {
  for (uint32_t word = offset / 4; word < (offset + bytes) / 4; ++word) {
    Cell& cell = block->cells[word];
    cell.written = true;
    cell.in_flight = false;
    cell.writer = static_cast<int>(block->place.thread);
    cell.write_epoch = block->epoch;
  }
}

void land(const std::vector<Copy>& group) {
  for (const Copy& copy : group) {
    std::memcpy(block->shared.data() + copy.offset, copy.data.data(), copy.data.size());
    mark_written(copy.offset, static_cast<uint32_t>(copy.data.size()));
  }
}

}  // namespace

void Block::start(const Place& where, uint32_t shared_bytes, const Options& with) {
  place = where;
  options = with;
  epoch = 1;
  shared.assign(shared_bytes, static_cast<char>(0xa5));
  cells.assign(shared_bytes / 4, {});
  copies.assign(where.threads, {});
}

void load_shared(uint32_t offset, void* to, uint32_t bytes) {
  check_range(offset, bytes);
  const int self = static_cast<int>(block->place.thread);
  for (uint32_t word = offset / 4; word < (offset + bytes) / 4; ++word) {
    Cell& cell = block->cells[word];
    if (cell.in_flight) fault("reads " + at(word * 4) + " while a copy to it is in flight");
    if (!cell.written && !block->options.reads_ahead)
      fault("reads " + at(word * 4) + ", which nobody has written");
    if (cell.writer != self && cell.write_epoch == block->epoch)
      fault("reads " + at(word * 4) + ", written by thread " + std::to_string(cell.writer) +
            " with no barrier in between");
    cell.reader = cell.read_epoch != block->epoch || cell.reader == self ? self : kSeveral;
    cell.read_epoch = block->epoch;
  }
  std::memcpy(to, block->shared.data() + offset, bytes);
}

void store_shared(uint32_t offset, const void* from, uint32_t bytes) {
  check_overwrite(offset, bytes, "writes ");
  std::memcpy(block->shared.data() + offset, from, bytes);
  mark_written(offset, bytes);
}

void copy_async(uint32_t offset, const void* from, uint32_t bytes, uint32_t present_bytes) {
  check_overwrite(offset, bytes, "starts a copy to ");
  if (reinterpret_cast<uint64_t>(from) % bytes) fault("copies from a misaligned address");
  if (present_bytes) check_global(from, present_bytes, false);
  Copy copy{offset, std::vector<char>(bytes, 0)};
  std::memcpy(copy.data.data(), from, present_bytes);
  for (uint32_t word = offset / 4; word < (offset + bytes) / 4; ++word) block->cells[word].in_flight = true;
  if (!block->options.late_copies) std::memcpy(block->shared.data() + offset, copy.data.data(), bytes);
  block->copies[block->place.thread].open.push_back(std::move(copy));
}

void commit_copies() {
  auto& own = block->copies[block->place.thread];
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}

void wait_copies(uint32_t groups_left) {
  auto& groups = block->copies[block->place.thread].groups;
  while (groups.size() > groups_left) {
    land(groups.front());
    groups.erase(groups.begin());
  }
}

void check_exit() {
  const auto& own = block->copies[block->place.thread];
  bool left = !own.open.empty();
  for (const auto& group : own.groups) left |= !group.empty();
  if (left) fault("leaves while its copies are in flight");
}

void allow_global(const void* data, uint64_t bytes, bool writable) {
  ranges[reinterpret_cast<uint64_t>(data)] = {bytes, writable};
}

void forget_global() {
  ranges.clear();
}

void check_global(const void* at, uint32_t bytes, bool write) {
  const auto address = reinterpret_cast<uint64_t>(at);
  if (address % bytes) fault("uses a misaligned address in a step of " + std::to_string(bytes) + " bytes");
  auto range = ranges.upper_bound(address);
  if (range == ranges.begin()) fault("reaches outside of global memory");
  --range;
  if (address + bytes > range->first + range->second.bytes) fault("reaches outside of global memory");
  if (write && !range->second.writable) fault("writes to an input");
}

}  // namespace emu
