// The AMX tile intrinsics in plain C++, for processors without AMX. Include it before the kernel (g++
// -include): it takes the place of the intrinsics of <immintrin.h>, and what would fault on hardware ends the
// program with the rule that was broken. Written after the instruction descriptions in Intel's Software
// Developer's Manual, volume 2 (LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TILERELEASE, TDPBSSD, TDPBUSD);
// one state per thread.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace amx_emulation {

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;

struct Tile {
  int rows = 0, row_bytes = 0;
  uint8_t data[kRows][kRowBytes] = {};
};

struct State {
  bool configured = false;
  Tile tile[kTiles];
  // What ran, so that a test can tell that the kernel multiplied with tiles at all.
  int64_t configurations = 0, products = 0;
};

inline State& state() {
  static thread_local State s;
  return s;
}

inline void require(bool holds, const char* instruction, const char* rule) {
  if (holds) return;
  std::fprintf(stderr, "AMX fault: %s: %s\n", instruction, rule);
  std::abort();
}

inline Tile& tile(int index, const char* instruction) {
  require(state().configured, instruction, "tiles are not configured");
  require(index >= 0 && index < kTiles, instruction, "there are 8 tiles");
  Tile& t = state().tile[index];
  require(t.rows > 0 && t.row_bytes > 0, instruction, "the tile has no rows in this configuration");
  return t;
}

inline void release() {
  State& s = state();
  s.configured = false;
  for (Tile& t : s.tile) t = Tile{};
}

// 64 bytes: palette, start row, 14 reserved, 16 x 16-bit bytes per row, 16 x 8-bit rows.
inline void load_config(const void* memory) {
  const char* name = "ldtilecfg";
  uint8_t bytes[64];
  std::memcpy(bytes, memory, sizeof(bytes));
  require(bytes[0] <= 1, name, "the palette must be 0 or 1");
  release();
  if (bytes[0] == 0) return;
  require(bytes[1] == 0, name, "a start row other than 0 is for interrupted instructions");
  for (int i = 2; i < 16; ++i) require(bytes[i] == 0, name, "reserved bytes must be 0");
  State& s = state();
  for (int i = 0; i < 16; ++i) {
    const int row_bytes = bytes[16 + 2 * i] | bytes[17 + 2 * i] << 8, rows = bytes[48 + i];
    if (i >= kTiles) {
      require(row_bytes == 0 && rows == 0, name, "tiles 8 to 15 do not exist and must be 0");
      continue;
    }
    require(row_bytes <= kRowBytes && rows <= kRows, name, "a tile has at most 16 rows of 64 bytes");
    require((row_bytes == 0) == (rows == 0), name, "rows and bytes per row must both be 0, or neither");
    s.tile[i].rows = rows;
    s.tile[i].row_bytes = row_bytes;
  }
  s.configured = true;
  ++s.configurations;
}

// Rows `stride` bytes apart; what the tile's shape leaves out becomes 0.
inline void load(int index, const void* base, int64_t stride) {
  Tile& t = tile(index, "tileloadd");
  std::memset(t.data, 0, sizeof(t.data));
  for (int row = 0; row < t.rows; ++row)
    std::memcpy(t.data[row], static_cast<const char*>(base) + row * stride, static_cast<size_t>(t.row_bytes));
}

inline void store(int index, void* base, int64_t stride) {
  const Tile& t = tile(index, "tilestored");
  for (int row = 0; row < t.rows; ++row)
    std::memcpy(static_cast<char*>(base) + row * stride, t.data[row], static_cast<size_t>(t.row_bytes));
}

inline void zero(int index) {
  Tile& t = tile(index, "tilezero");
  std::memset(t.data, 0, sizeof(t.data));
}

// sum[m][n] += products of 4 neighbours: a[m][4k + i] * b[k][4n + i], 32-bit, wrapping.
template <class A, class B>
void multiply(int sum_index, int a_index, int b_index, const char* name) {
  Tile &sum = tile(sum_index, name), &a = tile(a_index, name), &b = tile(b_index, name);
  require(sum_index != a_index && sum_index != b_index && a_index != b_index, name,
          "the three tiles must differ");
  require(sum.row_bytes % 4 == 0 && a.row_bytes % 4 == 0 && b.row_bytes % 4 == 0, name,
          "bytes per row must be multiples of 4");
  require(a.rows == sum.rows, name, "the first source must have the destination's rows");
  require(b.row_bytes == sum.row_bytes, name, "the second source must have the destination's bytes per row");
  require(a.row_bytes / 4 == b.rows, name, "inputs of the first source must meet rows of the second");
  for (int m = 0; m < sum.rows; ++m) {
    uint32_t row[kRowBytes / 4];
    std::memcpy(row, sum.data[m], sizeof(row));
    for (int k = 0; k < b.rows; ++k) {
      for (int n = 0; n < sum.row_bytes / 4; ++n) {
        for (int i = 0; i < 4; ++i) {
          const int32_t x = static_cast<A>(a.data[m][4 * k + i]), w = static_cast<B>(b.data[k][4 * n + i]);
          row[n] += static_cast<uint32_t>(x * w);
        }
      }
    }
    std::memcpy(sum.data[m], row, static_cast<size_t>(sum.row_bytes));
  }
  ++state().products;
}

}  // namespace amx_emulation

#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#undef _tile_dpbusd
#define _tile_loadconfig(memory) amx_emulation::load_config(memory)
#define _tile_release() amx_emulation::release()
#define _tile_loadd(tile, base, stride) amx_emulation::load(tile, base, stride)
#define _tile_stream_loadd(tile, base, stride) amx_emulation::load(tile, base, stride)
#define _tile_stored(tile, base, stride) amx_emulation::store(tile, base, stride)
#define _tile_zero(tile) amx_emulation::zero(tile)
#define _tile_dpbssd(sum, a, b) amx_emulation::multiply<int8_t, int8_t>(sum, a, b, "tdpbssd")
#define _tile_dpbusd(sum, a, b) amx_emulation::multiply<uint8_t, int8_t>(sum, a, b, "tdpbusd")
