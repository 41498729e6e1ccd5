// Tiles that meet different words of a pixel, as the groups of a grouped convolution do.
#include "cpu/kernels.h"

namespace mbu {

void run_tiles(const CpuKernel& kernel, Conv2dTile tile) {
  const Word* input = tile.input;
  const int64_t end = tile.tile_end;
  for (; tile.tile_begin < end; tile.tile_begin = tile.tile_end) {
    const int32_t first = tile.first_word[tile.tile_begin];
    for (tile.tile_end = tile.tile_begin + 1; tile.tile_end < end;) {
      if (tile.first_word[tile.tile_end] != first) break;
      ++tile.tile_end;
    }
    tile.input = input + first;
    kernel.conv2d(tile);
  }
}

}  // namespace mbu
