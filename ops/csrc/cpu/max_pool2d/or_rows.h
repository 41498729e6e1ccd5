// OR of rows of words. Included by one file per instruction set, each compiled with its own flags: the
// compiler vectorises it. In an unnamed namespace, because the copies must not be merged by the linker.
#pragma once
#include "mbu/types.h"

namespace mbu {
namespace {

inline void or_rows(const Word* const* rows, int64_t row_count, int64_t count, Word* __restrict row) {
  if (row_count == 0) {
    for (int64_t i = 0; i < count; ++i) row[i] = 0;
    return;
  }
  if (row_count == 1) {
    const Word* a = rows[0];
    for (int64_t i = 0; i < count; ++i) row[i] = a[i];
    return;
  }
  const Word *a = rows[0], *b = rows[1];
  for (int64_t i = 0; i < count; ++i) row[i] = a[i] | b[i];
  for (int64_t r = 2; r < row_count; ++r) {
    const Word* c = rows[r];
    for (int64_t i = 0; i < count; ++i) row[i] |= c[i];
  }
}

}  // namespace
}  // namespace mbu
