// What an AMX core gives at best: multiply-adds per nanosecond of tdpbssd in loops like those of the kernels.
//
//   g++ -O2 -std=c++20 -mamx-tile -mamx-int8 ops/bench/amx_rates.cpp -o /tmp/amx_rates && /tmp/amx_rates
//
// A step is four products of two tiles of inputs and two of weights, as in conv2d_32x32__amx_int8.cpp. Inputs
// stay in the first-level cache; the weights' size decides where they come from.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

namespace {

constexpr int64_t kTile = 1024, kProducts = 16 * 16 * 64;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig kTiles;

// The best of five rounds. Every `steps` steps, counters are stored and start from zero; 0: never.
double rate(const int8_t* inputs, const int8_t* weights, int64_t weight_bytes, int64_t steps,
            int32_t* counts) {
  constexpr int64_t kSteps = 1'000'000;
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    int64_t at = 0, left = steps;
    for (int64_t i = 0; i < kSteps; ++i, at = at + 2 * kTile < weight_bytes ? at + 2 * kTile : 0) {
      _tile_loadd(4, inputs, 64);
      _tile_loadd(6, weights + at, 64);
      _tile_dpbssd(0, 4, 6);
      _tile_loadd(7, weights + at + kTile, 64);
      _tile_dpbssd(1, 4, 7);
      _tile_loadd(5, inputs + kTile, 64);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
      if (steps && --left == 0) {
        left = steps;
        _tile_stored(0, counts, 128);
        _tile_stored(1, counts + 16, 128);
        _tile_stored(2, counts + 512, 128);
        _tile_stored(3, counts + 528, 128);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      }
    }
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(kSteps * 4 * kProducts) / time.count());
  }
  return best;
}

// The same for the loops of conv2d_128x32__amx_int8.cpp and nothing else: six products of three steps per 64
// channels, four blocks of 2 x 16 columns x 4 rows one after another, inputs and weights as far apart as
// there. Counted in multiply-adds of the 3x3 layer, twice those that tdpbssd does.
double winograd_rate(int64_t channels, int64_t columns, int64_t tiles) {
  constexpr int64_t kGroup = 4, kRows = 8, kStored = 6;
  const int64_t steps = channels / 64, pitch = columns + 2, plane = kRows * pitch * 64;
  const int64_t input_bytes = kStored * steps * plane, weight_bytes = kStored * 3 * steps * 2 * kTile;
  auto* inputs = static_cast<int8_t*>(std::aligned_alloc(4096, (input_bytes + 8191) / 4096 * 4096));
  auto* weights = static_cast<int8_t*>(std::aligned_alloc(4096, tiles * weight_bytes));
  for (int64_t i = 0; i < input_bytes; ++i) inputs[i] = static_cast<int8_t>(std::rand() % 3 - 1);
  for (int64_t i = 0; i < tiles * weight_bytes; ++i) weights[i] = static_cast<int8_t>(std::rand() % 3 - 1);
  std::vector<int32_t> counts(kGroup * kStored * kTile);
  const int64_t by_row = columns / 32, blocks = kRows * by_row;
  double best = 0;
  for (int round = 0; round < 20; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int64_t tile = 0; tile < tiles; ++tile) {
      for (int64_t group = 0; group < blocks; group += kGroup) {
        for (int64_t product = 0; product < kStored; ++product) {
          for (int64_t block = group; block < group + kGroup; ++block) {
            const int8_t* a =
                inputs + product * steps * plane + (block / by_row * pitch + block % by_row * 32) * 64;
            const int8_t* w = weights + tile * weight_bytes + product * 3 * steps * 2 * kTile;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t step = 0; step < steps; ++step, a += plane) {
              for (int64_t column = 0; column < 3; ++column, w += 2 * kTile) {
                _tile_loadd(4, a + column * 64, 64);
                _tile_loadd(6, w, 64);
                _tile_dpbssd(0, 4, 6);
                _tile_loadd(7, w + kTile, 64);
                _tile_dpbssd(1, 4, 7);
                _tile_loadd(5, a + column * 64 + kTile, 64);
                _tile_dpbssd(2, 5, 6);
                _tile_dpbssd(3, 5, 7);
              }
            }
            int32_t* to = counts.data() + ((block - group) * kStored + product) * kTile;
            _tile_stored(0, to, 128);
            _tile_stored(1, to + 16, 128);
            _tile_stored(2, to + 512, 128);
            _tile_stored(3, to + 528, 128);
          }
        }
      }
    }
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    best =
        std::max(best, static_cast<double>(tiles * 32 * channels * 9 * kRows * 4 * columns) / time.count());
  }
  std::free(inputs);
  std::free(weights);
  return best;
}

}  // namespace

int main() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) {
    std::puts("this processor or operating system has no AMX");
    return 1;
  }
  _tile_loadconfig(&kTiles);
  constexpr int64_t kMost = 8 << 20;
  auto* bytes = static_cast<int8_t*>(std::aligned_alloc(64, kMost + 2 * kTile));
  std::vector<int32_t> counts(1024);
  for (int64_t i = 0; i < kMost + 2 * kTile; ++i)  // weights -1, 0, 1; inputs 0, 1
    bytes[i] = static_cast<int8_t>(i < kMost ? std::rand() % 3 - 1 : std::rand() % 2);
  const int8_t* inputs = bytes + kMost;
  for (int64_t kilobytes : {16, 256, 1024, 4096, 8192})
    std::printf("weights of %5ld KB, no stores: %4.0f multiply-adds per ns\n", static_cast<long>(kilobytes),
                rate(inputs, bytes, kilobytes << 10, 0, counts.data()));
  for (int64_t steps : {3, 9, 36})
    std::printf("weights of    16 KB, stored every %2ld steps: %4.0f multiply-adds per ns\n",
                static_cast<long>(steps), rate(inputs, bytes, 16 << 10, steps, counts.data()));
  for (const auto& [channels, columns] : {std::pair{128, 128}, {256, 64}, {512, 32}, {1024, 32}})
    std::printf("F(4, 3), %4d channels, %3d columns: %4.0f multiply-adds of the layer per ns\n", channels,
                columns, winograd_rate(channels, columns, 8));
  _tile_release();
  std::free(bytes);
  return 0;
}
