// What a kernel's epilogue compares counts with, or subtracts them from.
#pragma once
#include <cstdint>

#include "cpu/conv2d/axis.h"
#include "mbu/params.h"

namespace mbu {

// table[class, plane, channel]: the correction-included base for sums; for bits, the largest count whose dot
// product reaches the threshold: base - 2 * count >= threshold  <=>  count <= floor((base - threshold) / 2).
//
// counts_bytes: how the kernel counts, see types.h.
void fill_table(const Conv2dParams& p, bool counts_bytes, const AxisPhase& y, const AxisPhase& x,
                int32_t* table);

}  // namespace mbu
