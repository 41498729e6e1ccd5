// The input of a band as bytes, for kernels that multiply bytes: which pixels are expanded, where they lie
// and which of them make up a tile.
//
// A band's bits become bytes once, 1 and 0, in an order that makes every operand a run of memory:
//
//   bytes [step: some words][plane: fewer channels][grid][row][column][cell: the bytes of a plane]
//
// A step is one tap of some words. Where a step of two words has but one left, the last, its cells are half
// as large and a step takes it at two neighbouring taps instead.
//
// A grid holds the picture pixels (i * step_h + r, j * step_w + c) of one remainder (r, c), those that some
// tap meets. Within a grid the taps of a convolution with steps are those of one without: output pixel (y, x)
// meets (y + row / step_h, x + column / step_w). So neighbours in a row are one load. Where rows are no
// multiple of a tile, one may also run on from the end of a row into the next and count a few pixels that do
// not exist. In narrow images those would be many: there each column of taps has a grid of its own, as wide
// as the output.
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
  int64_t words;   // of a step, 1 or 2
  int64_t planes;  // of a step
  int64_t cell;    // bytes of a pixel in one plane
};

struct ByteStep {
  int64_t input;          // bytes from the pixel
  int64_t stride;         // bytes from it to the next
  int64_t first, second;  // words of the tile's weights, tap * words + word; `second` may be -1: zeros
};

// Pixels that follow one another in the bytes. Those that exist follow one another in the lists of Conv2dTile
// too; those in a gap between two rows do not exist.
struct PixelTile {
  int64_t start;    // cells to the first
  int64_t pixel;    // index of the first that exists
  uint32_t exists;  // a bit each
  int32_t border;   // the border class if all exist and share it, else -1
};

// Images are narrow where more than one in this many pixels between two rows does not exist.
constexpr int64_t kNarrow = 4;

struct Grid {
  int64_t row, column;  // of its first pixel
};

struct Grids {
  std::vector<Grid> grids;
  std::vector<int64_t> inputs;  // of each tap, in cells
  std::vector<ByteStep> steps;
  std::vector<PixelTile> tiles;
  int64_t rows, columns;  // of one grid, as far as outputs reach
  int64_t pixels;         // of all grids
};

// The steps that a tile meets: all, or in `kept` those any of whose words is present.
inline const std::vector<ByteStep>& steps_of_tile(const Conv2dTile& t, const Grids& g, int64_t tile,
                                                  std::vector<ByteStep>& kept) {
  if (!t.present) return g.steps;
  const Word* present = t.present + tile * t.present_words;
  auto meets = [&](int64_t word) { return word >= 0 && present[word / kWordBits] >> (word % kWordBits) & 1; };
  kept.clear();
  for (const ByteStep& step : g.steps)
    if (meets(step.first) || meets(step.second)) kept.push_back(step);
  return kept;
}

// Lists the grids and, with the offsets that follow from them, the steps: kernel rows outside, so that the
// pixels that one row's taps pass over stay in the first-level cache.
inline void plan_steps(const Conv2dTile& t, const ByteShape& shape, Grids& g) {
  const Conv2dPicture& in = t.picture;
  g.grids.clear();
  g.inputs.clear();
  g.rows = t.pixels / t.row_pixels;
  g.columns = t.row_pixels;
  for (int64_t i = 0; i < in.taps; ++i) {
    g.rows = std::max(g.rows, t.pixels / t.row_pixels + in.tap[i].row / in.step_h);
    g.columns = std::max(g.columns, t.row_pixels + in.tap[i].column / in.step_w);
  }
  const bool narrow = kNarrow * (g.columns - t.row_pixels) > t.row_pixels;
  if (narrow) g.columns = t.row_pixels;
  for (int64_t i = 0; i < in.taps; ++i) {
    const Grid grid{in.tap[i].row % in.step_h, narrow ? in.tap[i].column : in.tap[i].column % in.step_w};
    const auto found = std::find_if(g.grids.begin(), g.grids.end(), [&](const Grid& other) {
      return other.row == grid.row && other.column == grid.column;
    });
    g.inputs.push_back(found - g.grids.begin());  // for now the index of the grid
    if (found == g.grids.end()) g.grids.push_back(grid);
  }
  g.pixels = static_cast<int64_t>(g.grids.size()) * g.rows * g.columns;
  for (int64_t i = 0; i < in.taps; ++i) {
    int64_t& input = g.inputs[static_cast<size_t>(i)];
    input = (input * g.rows + in.tap[i].row / in.step_h) * g.columns;
    if (!narrow) input += in.tap[i].column / in.step_w;
  }
  g.steps.clear();
  const int64_t whole = in.words / shape.words * shape.words,
                step_bytes = g.pixels * shape.planes * shape.cell;
  for (int64_t i = 0, end; i < in.taps; i = end) {
    for (end = i; end < in.taps && in.tap[end].row == in.tap[i].row;) ++end;
    for (int64_t word = 0; word < whole; word += shape.words)
      for (int64_t tap = i; tap < end; ++tap) {
        const int64_t first = in.tap[tap].kernel * in.words + word;
        g.steps.push_back({g.inputs[static_cast<size_t>(tap)] * shape.cell + word / shape.words * step_bytes,
                           shape.cell, first, shape.words == 2 ? first + 1 : -1});
      }
    for (int64_t tap = i; tap < end && whole < in.words; ++tap) {  // the word that is left
      const int64_t input = g.inputs[static_cast<size_t>(tap)], half = shape.cell / 2;
      ByteStep step{input * half + whole / 2 * step_bytes, half, in.tap[tap].kernel * in.words + whole, -1};
      if (tap + 1 < end && g.inputs[static_cast<size_t>(tap + 1)] == input + 1)
        step.second = in.tap[++tap].kernel * in.words + whole;
      g.steps.push_back(step);
    }
  }
}

// The border class of `count` pixels if they share it, else -1; those of one row do if their ends do.
inline int32_t shared_border(const Conv2dTile& t, int64_t pixel, int64_t count, bool in_row) {
  const int32_t *border = t.border + pixel, first = *border;
  const auto same = [&](int32_t other) { return other == first; };
  return (in_row ? same(border[count - 1]) : std::all_of(border, border + count, same)) ? first : -1;
}

// Row by row, or through the gaps between rows: whichever has fewer tiles.
inline void plan_tiles(const Conv2dTile& t, int64_t size, Grids& g) {
  const int64_t rows = t.pixels / t.row_pixels, columns = t.row_pixels, pitch = g.columns;
  const int64_t by_row = (columns + size - 1) / size;
  const int64_t through = ((rows - 1) * pitch + columns + size - 1) / size;
  const bool joined = through < rows * by_row;
  g.tiles.resize(static_cast<size_t>(joined ? through : rows * by_row));
  int64_t row = 0, column = 0, pixel = 0;
  for (PixelTile& tile : g.tiles) {
    tile = {row * pitch + column, pixel, 0, -1};
    const bool in_row = column + size <= columns;
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
    if (tile.exists == (1u << size) - 1) tile.border = shared_border(t, tile.pixel, size, in_row);
  }
}

// expand_row(from, stride, count, to): the bits of `count` pixels, `stride` words apart from the step's first
// word of the first, to the step's first plane. `cell`: bytes of a pixel there.
template <class ExpandRow>
inline void expand(const Conv2dTile& t, const Grids& g, int64_t first_word, int64_t cell, int8_t* to,
                   const ExpandRow& expand_row) {
  const Conv2dPicture& in = t.picture;
  for (const Grid& grid : g.grids) {
    // The last rows and columns of a grid may lie outside the picture; no output that exists meets those.
    const int64_t columns = std::min(g.columns, (in.columns - grid.column + in.step_w - 1) / in.step_w);
    for (int64_t row = 0; row < g.rows; ++row, to += g.columns * cell) {
      const int64_t y = grid.row + row * in.step_h;
      if (y >= in.rows) continue;
      const Word* from = t.input + first_word + y * in.row_stride + grid.column * in.pixel_stride;
      expand_row(from, in.step_w * in.pixel_stride, columns, to);
    }
  }
}

}  // namespace
}  // namespace mbu
