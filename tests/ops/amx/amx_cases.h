// The layers that check_amx.cpp computes.
#pragma once
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "mbu/params.h"

namespace {

using namespace mbu;

struct Case {
  int64_t batch, channels, out_channels, height, width;
  Extent kernel, stride, padding, dilation;
  bool transposed, zero_padding;
  int64_t planes;         // 0: sums
  Extent output_padding;  // of a transposed convolution
  int64_t gap;            // words of other channels beside those of each input pixel
  int threads;
  double density;  // of weights that are not zero
  int64_t groups = 1;
  double blocks = 1;     // share of the blocks of 32 outputs x 32 inputs of one tap that are present
  int64_t products = 0;  // how many tile products it takes, where that tells which kernel ran

  std::string text() const {
    char line[256];
    std::snprintf(
        line, sizeof(line),
        "n=%ld c=%ld oc=%ld %ldx%ld k=%ldx%ld s=%ld,%ld p=%ld,%ld d=%ld,%ld t=%d zero=%d planes=%ld "
        "op=%ld,%ld gap=%ld threads=%d groups=%ld blocks=%g",
        long(batch), long(channels), long(out_channels), long(height), long(width), long(kernel.h),
        long(kernel.w), long(stride.h), long(stride.w), long(padding.h), long(padding.w), long(dilation.h),
        long(dilation.w), transposed, zero_padding, long(planes), long(output_padding.h),
        long(output_padding.w), long(gap), threads, long(groups), blocks);
    return line;
  }
};

// Layers of real networks, chosen for what they reach in the kernel.
std::vector<Case> fixed_cases() {
  const Extent none{0, 0};
  auto conv = [&](int64_t c, int64_t oc, int64_t h, int64_t w, int64_t k, int64_t s, int64_t p, int64_t d) {
    return Case{1, c, oc, h, w, {k, k}, {s, s}, {p, p}, {d, d}, false, true, 1, none, 0, 1, 0.6};
  };
  std::vector<Case> cases = {
      conv(64, 64, 9, 32, 3, 1, 1, 1),    // full tiles row by row
      conv(64, 32, 12, 14, 3, 1, 1, 1),   // tiles that run through the ring
      conv(96, 40, 17, 33, 3, 2, 1, 1),   // four grids, half a step
      conv(64, 33, 16, 16, 1, 2, 0, 1),   // one of four grids
      conv(320, 32, 5, 5, 3, 1, 2, 2),    // dilation, more steps than the lead
      conv(32, 64, 1, 1, 5, 1, 2, 1),     // one pixel, most taps missing
      conv(128, 32, 2, 700, 3, 1, 1, 1),  // bands of one row
      conv(64, 32, 40, 48, 5, 3, 0, 1),  conv(1024, 32, 3, 3, 1, 1, 0, 1), conv(64, 256, 4, 4, 3, 1, 1, 1),
  };
  Case up = conv(64, 32, 7, 9, 2, 2, 0, 1);
  up.transposed = true;
  cases.push_back(up);
  up.kernel = {1, 3};  // rows that no tap reaches
  up.output_padding = {1, 1};
  cases.push_back(up);
  // 3x3: half of the products, unless rows leave too much of a tile empty.
  Case fewer = conv(256, 32, 8, 16, 3, 1, 1, 1);  // twice four rows: 1 block x 6 products x 12 steps x 4
  fewer.products = 6 * 12 * 4;
  cases.push_back(fewer);
  Case narrow = conv(256, 32, 9, 7, 3, 1, 1, 1);  // 63 pixels: 4 tiles x 36 steps x 2
  narrow.products = 4 * 36 * 2;
  cases.push_back(narrow);
  Case side = conv(64, 32, 48, 5, 3, 1, 1, 1);  // on its side: 5 rows of 3 tiles x 9 steps x 2
  side.products = 15 * 9 * 2;
  cases.push_back(side);
  cases.push_back(conv(256, 40, 203, 5, 3, 1, 1, 1));  // by Winograd's algorithm, a band of fewer rows
  cases.push_back(conv(33, 40, 5, 8, 1, 1, 4, 1));     // both ends of a tile miss the tap
  Case few = conv(32, 32, 8, 16, 3, 1, 1, 1);          // neighbouring taps share a step: 2 for 3 taps
  few.products = 8 * 6 * 2;                            // 8 tiles x 6 steps x 2
  cases.push_back(few);
  few.out_channels = 16;  // half of a tile of weights
  few.products = 8 * 6;
  cases.push_back(few);
  cases.push_back(conv(64, 48, 9, 33, 3, 1, 1, 1));   // a half behind a whole one
  cases.push_back(conv(290, 40, 7, 30, 3, 1, 1, 1));  // odd rows, a part of a tile, half a step
  cases.push_back(conv(480, 64, 2, 16, 3, 1, 1, 1));
  Case other = conv(256, 32, 6, 20, 3, 1, 0, 1);
  other.kernel = {3, 2};
  other.dilation = {1, 2};
  cases.push_back(other);
  other.zero_padding = false;
  other.padding = {2, 1};
  cases.push_back(other);
  other.dilation = {2, 1};  // its rows are not neighbours: computed directly
  cases.push_back(other);
  other.groups = 2;  // 256 channels each
  other.channels = 512;
  other.out_channels = 64;
  other.dilation = {1, 1};
  cases.push_back(other);
  other.groups = 1;
  other.channels = 256;
  other.transposed = other.zero_padding = true;  // its rows run the other way
  cases.push_back(other);
  Case absent = conv(290, 70, 8, 16, 3, 1, 1, 1);  // not by Winograd's algorithm: too much is absent
  for (double blocks : {0.0, 0.2, 0.5}) {
    absent.blocks = blocks;
    cases.push_back(absent);
  }
  for (size_t i = 0, count = cases.size(); i < count; ++i) {
    Case sums = cases[i];
    sums.products *= 2;  // the sums and the float stream
    sums.planes = 0;
    sums.threads = 3;
    cases.push_back(sums);
  }
  return cases;
}

Case random_case(uint64_t seed) {
  std::mt19937_64 random(seed);
  auto pick = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  auto pair = [&](int64_t low, int64_t high) { return Extent{pick(low, high), pick(low, high)}; };
  const int64_t channels[] = {1, 3, 31, 32, 33, 64, 70, 96, 129};
  Case c{};
  c.batch = pick(1, 2);
  c.channels = channels[pick(0, 8)];
  c.out_channels = channels[pick(0, 8)];
  c.height = pick(1, 12);
  c.width = pick(1, 24);
  c.kernel = pair(1, pick(1, 5));
  c.stride = pair(1, 3);
  c.dilation = pair(1, 2);
  if (pick(0, 3) == 0) {
    c.kernel = {3, 3};
    c.stride = {1, 1};
    c.dilation.h = 1;
  }
  c.transposed = pick(0, 2) == 0;
  if (c.transposed) {
    c.padding = {pick(0, c.kernel.h / 2), pick(0, c.kernel.w / 2)};
    c.output_padding = {pick(0, c.stride.h - 1), pick(0, c.stride.w - 1)};
  } else {
    c.padding = pair(0, 4);
  }
  c.zero_padding = c.transposed || pick(0, 1);
  c.planes = pick(0, 3);
  c.gap = pick(0, 1);
  c.threads = static_cast<int>(pick(1, 4));
  c.density = static_cast<double>(pick(0, 4)) / 4;
  if (pick(0, 3) == 0) {
    c.groups = pick(2, 4);
    c.channels = c.groups * channels[pick(0, 6)];
    c.out_channels = c.groups * channels[pick(0, 4)];
  }
  if (pick(0, 3) == 0) c.blocks = static_cast<double>(pick(0, 9)) / 10;
  return c;
}

}  // namespace
