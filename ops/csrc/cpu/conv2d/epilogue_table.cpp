#include "cpu/conv2d/epilogue_table.h"

#include <algorithm>

namespace mbu {

void fill_table(const Conv2dParams& p, bool counts_bytes, const AxisPhase& y, const AxisPhase& x,
                int32_t* table) {
  const int64_t padded = p.weight.padded_channels(), planes = p.bits ? p.planes : 1;
  // |dot| <= reach, so a threshold beyond it may be brought to reach + 1 without changing any bit; the
  // differences below then stay far inside 32 bits.
  const int32_t reach = static_cast<int32_t>(p.weight.taps() * p.input.words * kWordBits);
  auto add = [&](const int32_t* per_tap, size_t i, size_t j, int32_t* row, int32_t factor = 1) {
    const int32_t* source = per_tap + (y.taps[i].kernel * p.kernel.w + x.taps[j].kernel) * padded;
    for (int64_t c = 0; c < padded; ++c) row[c] += factor * source[c];
  };
  // Every class starts from the same sum over all taps, kept in the row that the last class overwrites.
  const int64_t rows = int64_t{y.classes} * x.classes * planes;
  int32_t* all_taps = table + (rows - 1) * padded;
  std::fill(all_taps, all_taps + padded, 0);
  for (size_t i = 0; i < y.taps.size(); ++i)
    for (size_t j = 0; j < x.taps.size(); ++j)
      counts_bytes ? add(p.weight.weight_sum(), i, j, all_taps, -1) : add(p.weight.nnz(), i, j, all_taps);
  for (int32_t cy = 0; cy < y.classes; ++cy) {
    for (int32_t cx = 0; cx < x.classes; ++cx, table += planes * padded) {
      int32_t* base = table + (planes - 1) * padded;  // the last plane's row, overwritten last
      if (base != all_taps) std::copy(all_taps, all_taps + padded, base);
      for (size_t i = 0; i < y.taps.size(); ++i)
        for (size_t j = 0; j < x.taps.size(); ++j)
          if (y.missing_tap(cy, i) || x.missing_tap(cx, j)) add(p.weight.weight_sum(), i, j, base);
      if (!p.bits) continue;
      for (int64_t plane = 0; plane < planes; ++plane) {
        int32_t* limit = table + plane * padded;
        const int32_t* threshold = p.threshold + plane * p.out_channels;
        for (int64_t c = 0; c < p.out_channels; ++c)
          limit[c] = (base[c] - std::clamp(threshold[c], -reach - 1, reach + 1)) >> 1;
        for (int64_t c = p.out_channels; c < padded; ++c)
          limit[c] = -1;  // their count is 0, so tail bits stay 0
      }
    }
  }
}

}  // namespace mbu
