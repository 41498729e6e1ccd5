// The input of a band as bytes, for kernels that multiply bytes: which pixels are expanded, where they lie
// and which of them make up a tile.
//
// A band's bits become bytes once, 1 and 0, in an order that makes every operand a run of memory:
//
//   bytes [step: some channels][plane: fewer channels][grid][row][column][cell: the bytes of a plane]
//
// A grid holds the picture pixels (i * step_h + r, j * step_w + c) of one remainder (r, c), those that some
// tap meets. Within a grid the taps of a convolution with steps are those of one without: output pixel (y, x)
// meets (y + row / step_h, x + column / step_w). So neighbours in a row are one load. Where rows are no
// multiple of a tile, one may also run on from the end of a row into the next and count a few pixels that do
// not exist.
//
// In an unnamed namespace, because copies compiled with different flags must not be merged by the linker.
#pragma once
#include <algorithm>
#include <vector>

#include "cpu/kernels.h"

namespace mbu {
namespace {

// What a kernel's operands look like.
struct ByteShape {
  int64_t cell;          // bytes of a pixel in one plane
  int64_t planes;        // of a step
  int64_t weight_bytes;  // of a tile, one tap and one step
  int64_t tile_pixels;
};

// One tap of one step: bytes from the pixel and from the start of the weights.
struct ByteStep {
  int64_t input, weight;
};

// Pixels that follow one another in the bytes. Those that exist follow one another in the lists of Conv2dTile
// too; those in a gap between two rows do not exist.
struct PixelTile {
  int64_t start;    // bytes to the first
  int64_t pixel;    // index of the first that exists
  uint32_t exists;  // a bit each
  int32_t border;   // the border class if all exist and share it, else -1
};

struct Grid {
  int64_t row, column;  // remainders
};

struct Grids {
  std::vector<Grid> grids;
  std::vector<int64_t> inputs;  // of each tap's first step
  std::vector<ByteStep> steps;
  std::vector<PixelTile> tiles;
  int64_t rows, columns;  // of one grid, as far as outputs reach
  int64_t plane_bytes;    // of all grids

  int64_t plane_pixels() const { return static_cast<int64_t>(grids.size()) * rows * columns; }
};

// The steps that a tile meets: all, or in `kept` those any of whose words is present.
//
// `words`: of a step.
inline const std::vector<ByteStep>& steps_of_tile(const Conv2dTile& t, const ByteShape& shape, const Grids& g,
                                                  int64_t tile, int64_t words, std::vector<ByteStep>& kept) {
  if (!t.present) return g.steps;
  const Word* present = t.present + tile * t.present_words;
  kept.clear();
  const int64_t kernel_w = t.picture.kernel_w, steps = (t.picture.words + words - 1) / words;
  for (const ByteStep& step : g.steps) {
    const int64_t index = step.weight / shape.weight_bytes;
    const int64_t tap = index / (kernel_w * steps) * kernel_w + index % kernel_w;
    const int64_t first = index / kernel_w % steps * words;
    bool meets = false;
    for (int64_t k = first; k < std::min(first + words, t.picture.words); ++k) {
      const int64_t word = tap * t.picture.words + k;
      meets |= present[word / kWordBits] >> (word % kWordBits) & 1;
    }
    if (meets) kept.push_back(step);
  }
  return kept;
}

// Lists the grids and, with the offsets that follow from them, the steps, in the order of their weights in
// memory: kernel rows outside, so that the pixels that one row's taps pass over stay in the first-level
// cache.
inline void plan_steps(const Conv2dTile& t, const ByteShape& shape, int64_t steps, Grids& g) {
  const Conv2dPicture& in = t.picture;
  g.grids.clear();
  g.inputs.clear();
  g.rows = t.pixels / t.row_pixels;
  g.columns = t.row_pixels;
  for (int64_t i = 0; i < in.taps; ++i) {
    g.rows = std::max(g.rows, t.pixels / t.row_pixels + in.tap[i].row / in.step_h);
    g.columns = std::max(g.columns, t.row_pixels + in.tap[i].column / in.step_w);
    const Grid grid{in.tap[i].row % in.step_h, in.tap[i].column % in.step_w};
    const auto found = std::find_if(g.grids.begin(), g.grids.end(), [&](const Grid& other) {
      return other.row == grid.row && other.column == grid.column;
    });
    g.inputs.push_back(found - g.grids.begin());  // for now the index of the grid
    if (found == g.grids.end()) g.grids.push_back(grid);
  }
  g.plane_bytes = g.plane_pixels() * shape.cell;
  for (int64_t i = 0; i < in.taps; ++i) {
    int64_t& input = g.inputs[static_cast<size_t>(i)];
    const int64_t row = in.tap[i].row / in.step_h, column = in.tap[i].column / in.step_w;
    input = ((input * g.rows + row) * g.columns + column) * shape.cell;
  }
  g.steps.clear();
  for (int64_t i = 0, end; i < in.taps; i = end) {
    const int64_t row = in.tap[i].kernel / in.kernel_w;
    for (end = i; end < in.taps && in.tap[end].kernel / in.kernel_w == row;) ++end;
    for (int64_t step = 0; step < steps; ++step)
      for (int64_t tap = i; tap < end; ++tap)
        g.steps.push_back({g.inputs[static_cast<size_t>(tap)] + step * shape.planes * g.plane_bytes,
                           step_index(row, step, in.tap[tap].kernel % in.kernel_w, steps, in.kernel_w) *
                               shape.weight_bytes});
  }
}

// The border class of `count` pixels if they share it, else -1.
inline int32_t shared_border(const Conv2dTile& t, int64_t pixel, int64_t count) {
  const int32_t *border = t.border + pixel, first = *border;
  return std::all_of(border, border + count, [&](int32_t other) { return other == first; }) ? first : -1;
}

// Row by row, or through the gaps between rows: whichever has fewer tiles.
inline void plan_tiles(const Conv2dTile& t, const ByteShape& shape, Grids& g) {
  const int64_t rows = t.pixels / t.row_pixels, columns = t.row_pixels, pitch = g.columns;
  const int64_t size = shape.tile_pixels;
  const int64_t by_row = (columns + size - 1) / size;
  const int64_t through = ((rows - 1) * pitch + columns + size - 1) / size;
  const bool joined = through < rows * by_row;
  g.tiles.resize(static_cast<size_t>(joined ? through : rows * by_row));
  int64_t row = 0, column = 0, pixel = 0;
  for (PixelTile& tile : g.tiles) {
    tile = {(row * pitch + column) * shape.cell, pixel, 0, -1};
    for (int64_t p = 0; p < size;) {  // runs of pixels and of gaps
      const bool exists = row < rows && column < columns;
      const int64_t end = exists ? columns : joined && row < rows ? pitch : column + size;
      const int64_t run = std::min(end - column, size - p);
      if (exists) {
        tile.exists |= ((1u << run) - 1) << p;
        pixel += run;
      }
      p += run;
      column += run;
      if (joined && column == pitch) ++row, column = 0;
    }
    if (!joined && column >= columns) ++row, column = 0;
    if (tile.exists != (1u << size) - 1) continue;
    tile.border = shared_border(t, tile.pixel, size);
  }
}

// expand_row(step, from, stride, count, to): the bits of `count` pixels, `stride` words apart from word 0 of
// the first, to the first plane of a step.
template <class ExpandRow>
inline void expand(const Conv2dTile& t, const ByteShape& shape, int64_t steps, const Grids& g, int8_t* bytes,
                   const ExpandRow& expand_row) {
  const Conv2dPicture& in = t.picture;
  for (int64_t step = 0; step < steps; ++step) {
    int8_t* to = bytes + step * shape.planes * g.plane_bytes;
    for (const Grid& grid : g.grids) {
      // The last rows and columns of a grid may lie outside the picture; no output that exists meets those.
      const int64_t columns = std::min(g.columns, (in.columns - grid.column + in.step_w - 1) / in.step_w);
      for (int64_t row = 0; row < g.rows; ++row, to += g.columns * shape.cell) {
        const int64_t y = grid.row + row * in.step_h;
        if (y >= in.rows) continue;
        const Word* from = t.input + y * in.row_stride + grid.column * in.pixel_stride;
        expand_row(step, from, in.step_w * in.pixel_stride, columns, to);
      }
    }
  }
}

}  // namespace
}  // namespace mbu
