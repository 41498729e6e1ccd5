// What a CPU kernel is, and the operations as csrc/torch calls them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "mbu/params.h"

namespace mbu {

class FetchAhead;

// Consecutive input words of an output pixel that meet consecutive weights. The taps of one kernel row are
// one run where they touch in memory, so a 3x3 layer has three runs and a 1x1 layer one.
struct Conv2dRun {
  int64_t source;  // words from the pixel's source
  int64_t weight;  // words from the tile's start
  int64_t count;   // input words
};

// One kernel element: output pixel (y, x) of a band meets pixel (y * step_h + row, x * step_w + column) of
// its picture.
struct Conv2dTap {
  int64_t row, column;
  int64_t kernel;  // index into the taps of the weight
};

// The input of a band as a picture, its ring included: for kernels that rewrite their input once and then
// compute, where others read it through runs.
struct Conv2dPicture {
  int64_t rows, columns;             // pixels
  int64_t row_stride, pixel_stride;  // words
  int64_t words;                     // of a pixel, those that the tiles meet
  int64_t step_h, step_w;            // picture pixels from one output pixel to the next
  int64_t taps;                      // may be 0: outputs that see no input
  const Conv2dTap* tap;              // [taps], row by row
};

// What turns the counts of a tile into a float stream where the kernel does so itself: see
// cpu/stream/stream.h. The shortcut of a pixel's channel is the sum over `terms` of
//   the largest of [tile * terms + term][source[pixel] + y * pool_h + x * pool_w + channel of the tile] *
//   share
// over y, x < pool.
struct StreamEpilogue {
  const float* affine;  // [steps, 2, channels]
  int64_t steps;
  bool relu;
  void* output;      // [target + oc]
  FloatType type;    // of the output: any but f16, as `shortcut_type`
  bool past_caches;  // the output is too large to be found there later; pixels start lines
  int64_t terms;     // 0: no shortcut
  const void* const* shortcut;
  FloatType shortcut_type;
  const int64_t* source;  // [pixels] elements
  int64_t pool, pool_h, pool_w;
  float share;
  // Of the next layer: bits[bits_target[pixel] + plane * words + tile] has bit (y >= threshold[plane, oc]), y
  // before it is rounded.
  int64_t planes;
  Word* bits;
  const int64_t* bits_target;  // [pixels]
  int64_t words;
  const float* threshold;
  int64_t threshold_stride;  // from plane to plane
  FetchAhead* ahead;         // memory to call for amid the work, or null
};

// One call of a conv2d microkernel: `pixels` output pixels times the channel tiles [tile_begin, tile_end).
// Pixels are a list, so that a tile of them is full whatever the width of the image; they are also whole rows
// of `row_pixels`, `pixels` being a multiple of it. `run` and `picture` describe the same products.
struct Conv2dTile {
  int64_t pixels;
  const Word* input;  // of the first pixel, and of the picture
  // Where `call` is not 0, calls of the kernel that have these, `input` and `picture` in common read the
  // same.
  struct {
    uint64_t call;
    int64_t band;
  } same_input;
  const int64_t* source;  // [pixels] words from `input` to the pixel's top left input word
  int64_t row_pixels;     // pixels of a row; a border class that its ends share, all between them have
  int64_t pixel_step;     // what `source` grows by within a row
  const int64_t* target;  // [pixels] elements from `sums` or `bits` to the pixel's first output
  const int32_t* border;  // [pixels] elements from `table` to the pixel's border class
  int64_t runs;
  const Conv2dRun* run;  // [runs]
  // Where the runs of each tile of the layer begin in `run`, and where the last one's end; null: all tiles
  // have the same. Read by run_tiles, not by kernels.
  const size_t* tile_run;
  Conv2dPicture picture;
  const int32_t* weight_sum;  // [taps][channels_padded], see types.h
  const Word* weight;         // tiles, see types.h
  int64_t weight_stride;      // words from one tile to the next
  bool binary;                // no weight is zero: masks need not be read
  // Words before those that a tile meets, for every tile of the layer; read by run_tiles, not by kernels.
  const int32_t* first_word;
  int64_t tile_begin, tile_end;
  // Which words of each tap a tile meets, as in TiledWeight, for kernels that read the picture; null: all.
  const Word* present;
  int64_t present_words;  // from one tile to the next
  // Epilogue. With `sums`: sums[target + oc] = table[border + oc] - 2 * count; kernels with `adds_stream`
  // take `stream` instead and finish the float stream of cpu/stream/stream.h. With `bits`:
  // bits[target + t * out_words + tile] has bit (count <= table[border + t * channels_padded + oc]), xor
  // flip[t * out_words + tile].
  const int32_t* table;
  int64_t table_size;
  int64_t channels, channels_padded;
  float* sums;
  const StreamEpilogue* stream;
  Word* bits;
  int64_t planes, out_words;
  const Word* flip;
};

// One row of pixels.
struct PackRow {
  const void* input;  // channel 0 of pixel 0
  FloatType type;
  int64_t channels, pixels, stride_c, stride_w;
  const float* threshold;  // [words_of(channels) * 32]
  const Word* flip;        // [words_of(channels)], no bit above the last channel
  Word* output;            // [pixels, words_of(channels)]
};

struct UnpackRow {
  const Word* input;
  int64_t channels, pixels, stride_w;
  float* output;  // [pixels, channels]
};

struct ResidualRow;
struct StreamRow;
struct HeadRow;
struct StemTile;
struct HeadWindows;
struct UpsampleRow;

struct CpuKernel {
  const char* name;
  const char* isa;
  WeightLayout layout;  // of the weights it reads
  // Of a kernel that makes bytes of a band's input first: how many a band may have. 0: it reads bits, by
  // runs.
  int64_t expanded_bytes;
  bool (*available)();
  // Which layers its conv2d computes; null: all of them. The others are for the next available kernel that
  // has no such rule, which reads the same layout.
  bool (*suits)(const Conv2dParams&);
  void (*conv2d)(const Conv2dTile&);
  bool adds_stream;  // conv2d finishes the float residual stream itself
  void (*pack)(const PackRow&);
  void (*unpack)(const UnpackRow&);
  void (*add_residual)(const ResidualRow&);  // cpu/stream/stream.h
  void (*finish_row)(const StreamRow&);
  // row[i] = a | b | ..: the words of `rows` input rows, each `count` words long
  void (*or_rows)(const Word* const* rows, int64_t row_count, int64_t count, Word* row);
  void (*stem_tile)(const StemTile&);        // cpu/stem/stem.h
  void (*head_row)(const HeadRow&);          // cpu/stream/stream.h
  void (*head_windows)(const HeadWindows&);  // cpu/head/head.h
  void (*upsample_row)(const UpsampleRow&);  // cpu/head/head.h
};

// The kernel in use: the best one this processor runs, unless MBU_CPU_KERNEL or force_cpu_kernel names
// another. Throws where that cannot run, so ask in front of parallel_for, not inside.
const CpuKernel& cpu_kernel();
// `kernel`, or what computes this layer in its place.
const CpuKernel& kernel_for(const CpuKernel& kernel, const Conv2dParams& params);

// The words of a pixel that each tile of 32 outputs meets: `count` from its `first` on.
struct WordRanges {
  std::vector<int32_t> first;
  int64_t count;
};
WordRanges find_word_ranges(const Word* planes, int64_t out_channels, int64_t taps, int64_t words);

// `tiled` has TiledWeight::size(layout, .., ranges.count) words.
void tile_weight(const Word* planes, int64_t out_channels, Extent kernel, int64_t words, WeightLayout layout,
                 const WordRanges& ranges, int32_t* tiled);
// The kernel on [tile_begin, tile_end), in one call for every stretch of tiles that meet the same words; a
// tile that leaves words out is a stretch of its own. `tile.input` is at the first word of a pixel.
void run_tiles(const CpuKernel& kernel, Conv2dTile tile);
// `kernel` reads the layout of params.weight; the caller has checked it.
void conv2d(const Conv2dParams& params, const CpuKernel& kernel = cpu_kernel());
void pack(const PackParams& params);
void unpack(const UnpackParams& params);
void join_bits(const JoinBitsParams& params);
void stem(const StemParams& params);
void head(const HeadParams& params);
void joined_head(const JoinedHeadParams& params);
void upsample(const UpsampleParams& params);
void max_pool2d(const MaxPool2dParams& params);

}  // namespace mbu
