// How a convolution is cut: into passes, bands of rows and, for threads, stretches of channel tiles. See
// conv2d.cpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/conv2d/axis.h"
#include "cpu/conv2d/gather.h"
#include "cpu/kernels.h"
#include "mbu/scratch.h"

namespace mbu {

struct Conv2dPass {
  const AxisPhase *y, *x;
  int64_t table;  // where the pass starts in the epilogue table
  bool ring;
  // The image on its side: pixels are listed column by column, and rows are columns to the kernel.
  bool turned;
  int64_t ring_stride;       // words of a scratch row
  int64_t band_rows, bands;  // rows of a band, bands per image
  int64_t first_item;
  size_t first_run, runs;  // in Conv2dPlan::runs
  size_t first_tile;       // in Conv2dPlan::tile_runs, where the tiles' runs differ
  size_t first_tap, taps;  // in Conv2dPlan::taps
};

// Everything the threads share. Kept by the calling thread between calls, so that it stops allocating.
struct Conv2dPlan {
  Axis y, x;
  Gather gather;
  std::vector<Conv2dPass> passes;
  std::vector<Conv2dRun> runs;
  std::vector<size_t> tile_runs;  // of each pass: where each tile's runs begin, and where the last one's end
  std::vector<Conv2dTap> taps;
  Scratch table_memory, flip_memory;
  int32_t* table;
  Word* flip;
  int64_t tiles, splits, items;
  bool interleaved;  // passes see the same input: an item is one of each, one after another
  uint64_t call;     // a number of its own for every call
};

// Fills `plan`, whose memory is kept from call to call.
void make_plan(const Conv2dParams& params, const CpuKernel& kernel, Conv2dPlan& plan);

}  // namespace mbu
