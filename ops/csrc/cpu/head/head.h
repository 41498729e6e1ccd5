// The head: a float convolution of many channels to a few classes, behind the last layer of bits. A 1x1 head
// is finished with that layer (cpu/stream); this is for larger kernels, whose windows reach into other rows.
//
// With channels beside each other in memory, the values that a kernel row meets are one stretch of kernel_w *
// channels floats, for every pixel the next channel on. So a pixel is kernel_h dot products.
#pragma once
#include <cstdint>

namespace mbu {

// The pixels of one output row whose windows lie within the input's columns.
struct HeadWindows {
  const float* const* row;     // [rows] the first pixel's window, in each of the input rows that exist
  const float* const* weight;  // [rows] of the same kernel rows, first class: [length]
  int64_t rows;
  int64_t class_stride;  // floats from one class's weights to the next
  int64_t length;        // floats of a window's row
  int64_t step;          // floats from one pixel's window to the next
  int64_t pixels, classes;
  const float* bias;  // [classes]
  float* output;      // [pixels, classes]
};

// An output row of bilinear upsampling lies between two input rows, an output column between two columns.
struct UpsampleColumn {
  int64_t first, second;  // floats from the row's start
  float share;            // of the second, in [0, 1]
};
struct UpsampleRow {
  const float *first, *second;
  float share;  // of the second
  const UpsampleColumn* column;
  int64_t pixels, channels;
  float* output;  // [pixels, channels]
};

// More classes than these are better in lanes than one after another.
constexpr int64_t kHeadClasses = 4;

}  // namespace mbu
