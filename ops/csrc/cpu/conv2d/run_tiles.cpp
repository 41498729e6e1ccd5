// Tiles that meet different words: those of the groups of a grouped convolution, and those with absent
// weights.
#include "cpu/kernels.h"

namespace mbu {

void run_tiles(const CpuKernel& kernel, Conv2dTile tile) {
  const Word* input = tile.input;
  const Conv2dRun* runs = tile.run;
  const int64_t end = tile.tile_end;
  for (; tile.tile_begin < end; tile.tile_begin = tile.tile_end) {
    const int32_t first = tile.first_word[tile.tile_begin];
    tile.tile_end = tile.tile_begin + 1;
    if (tile.tile_run) {
      const size_t* begin = tile.tile_run + tile.tile_begin;
      tile.run = runs + begin[0];
      tile.runs = static_cast<int64_t>(begin[1] - begin[0]);
    } else {
      while (tile.tile_end < end && tile.first_word[tile.tile_end] == first) ++tile.tile_end;
    }
    tile.input = input + first;
    kernel.conv2d(tile);
  }
}

}  // namespace mbu
