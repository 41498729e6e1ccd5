// Checks whose message is written for the user: the value, the rule and the way out. The text reaches Python
// as a RuntimeError unchanged (torch's own macro would put a source file and line before it).
#pragma once
#include <cstdint>
#include <sstream>
#include <stdexcept>

#define MBU_CHECK(condition, ...) \
  if (!(condition)) ::mbu::fail(__VA_ARGS__)

namespace mbu {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline int64_t checked_mul(int64_t a, int64_t b, const char* op) {
  int64_t product;
  MBU_CHECK(!__builtin_mul_overflow(a, b, &product), op, ": ", a, " x ", b,
            " elements overflow 64 bits; the shape arguments cannot be meant");
  return product;
}

inline int64_t checked_add(int64_t a, int64_t b, const char* op) {
  int64_t sum;
  MBU_CHECK(!__builtin_add_overflow(a, b, &sum), op, ": ", a, " + ", b,
            " overflows 64 bits; the shape arguments cannot be meant");
  return sum;
}

}  // namespace mbu
