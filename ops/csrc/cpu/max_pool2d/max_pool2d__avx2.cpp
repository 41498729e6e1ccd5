#include "cpu/kernels.h"
#include "cpu/max_pool2d/or_rows.h"

namespace mbu {

void or_rows__avx2(const Word* const* rows, int64_t row_count, int64_t count, Word* row) {
  or_rows(rows, row_count, count, row);
}

}  // namespace mbu
