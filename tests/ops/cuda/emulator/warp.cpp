// Operations of a whole warp, from the definitions in the PTX manual (section "Warp-level matrix
// instructions"): which lane holds which element.
#include <bit>
#include <cmath>
#include <cstring>

#include "emulator.h"

namespace emu {
namespace {

int lane() {
  return static_cast<int>(place().thread % 32);
}

// The sum over 32 bits, or 4 bytes, of one word of a row and of a column.
int32_t multiply(Product product, uint32_t a, uint32_t b) {
  if (product == Product::xor_popc) return std::popcount(a ^ b);
  if (product == Product::and_popc) return std::popcount(a & b);
  int32_t sum = 0;
  for (int byte = 0; byte < 4; ++byte)
    sum += static_cast<int8_t>(a >> (8 * byte)) * static_cast<int8_t>(b >> (8 * byte));
  return sum;
}

const char* name(Product product) {
  return product == Product::xor_popc ? "mma xor" : product == Product::and_popc ? "mma and" : "mma s8";
}

struct Row {
  uint32_t word[8];
};

// Row of a matrix that a descriptor stands for, addresses and distances in steps of 16 bytes.
Row load_row(uint64_t matrix, int row) {
  const auto field = [&](int bit) { return static_cast<uint32_t>(matrix >> bit & 0x3fff) * 16; };
  const uint32_t start =
      field(0) + static_cast<uint32_t>(row / 8) * field(32) + static_cast<uint32_t>(row % 8) * 16;
  Row found;
  for (uint32_t half : {0u, 1u}) load_shared(start + half * field(16), found.word + 4 * half, 16);
  return found;
}

}  // namespace

uint32_t shuffle(uint32_t value, uint32_t lane) {
  return exchange("shfl.idx", &value, 1)[lane % 32][0];
}

uint32_t shuffle_xor(uint32_t value, uint32_t mask) {
  return exchange("shfl.bfly", &value, 1)[lane() ^ static_cast<int>(mask)][0];
}

uint32_t ballot(bool value) {
  const uint32_t own = value;
  const Lanes all = exchange("vote.ballot", &own, 1);
  uint32_t bits = 0;
  for (int i = 0; i < 32; ++i) bits |= all[i][0] << i;
  return bits;
}

void load_matrix_x4(uint32_t (&m)[4], uint32_t offset) {
  // Each lane reads the row whose address it gives and hands its words out.
  uint32_t row[4];
  load_shared(offset, row, 16);
  const Lanes all = exchange("ldmatrix", row, 4);
  for (int i = 0; i < 4; ++i) m[i] = all[i * 8 + lane() / 4][lane() % 4];
}

void mma_m16n8(Product product, int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t own[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const Lanes all = exchange(name(product), own, 6);
  for (int e = 0; e < 4; ++e) {
    // Row of a: register 0 or 1 (+ 8 rows) for the first four words, 2 or 3 for the last four.
    const int row = lane() / 4, column = lane() % 4 * 2 + e % 2;
    for (int word = 0; word < 4; ++word) {
      c[e] += multiply(product, all[row * 4 + word][e / 2], all[column * 4 + word][4]);
      c[e] += multiply(product, all[row * 4 + word][2 + e / 2], all[column * 4 + word][5]);
    }
  }
}

void mma_m16n8_half(Product product, int32_t (&c)[4], const uint32_t (&a)[2], uint32_t b) {
  const uint32_t own[3] = {a[0], a[1], b};
  const Lanes all = exchange(name(product), own, 3);
  for (int e = 0; e < 4; ++e)
    for (int word = 0; word < 4; ++word)
      c[e] +=
          multiply(product, all[lane() / 4 * 4 + word][e / 2], all[(lane() % 4 * 2 + e % 2) * 4 + word][2]);
}

void mma_m8n8(Product product, int32_t (&c)[2], uint32_t a, uint32_t b) {
  const uint32_t own[2] = {a, b};
  const Lanes all = exchange(name(product), own, 2);
  for (int e = 0; e < 2; ++e)
    for (int word = 0; word < 4; ++word)
      c[e] += multiply(product, all[lane() / 4 * 4 + word][0], all[(lane() % 4 * 2 + e) * 4 + word][1]);
}

void wgmma_m64n256(Product product, int32_t (&c)[kWgmmaSums], uint64_t a, uint64_t b) {
  exchange("wgmma", nullptr, 0);
  const int warp = static_cast<int>(place().thread / 32 % 4);
  const Row rows[2] = {load_row(a, 16 * warp + lane() / 4), load_row(a, 16 * warp + lane() / 4 + 8)};
  for (int pair = 0; pair < kWgmmaSums / 4; ++pair)
    for (int column = 0; column < 2; ++column) {
      const Row other = load_row(b, 8 * pair + lane() % 4 * 2 + column);
      for (int row = 0; row < 2; ++row)
        for (int word = 0; word < 8; ++word)
          c[4 * pair + 2 * row + column] += multiply(product, rows[row].word[word], other.word[word]);
    }
}

float half_to_float(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float sign = half >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? std::nanf("") : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024.0f + fraction, exponent - 25)
                          : std::ldexp(static_cast<float>(fraction), -24));
}

uint16_t float_to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (std::isnan(value)) return 0x7fff;
  const float size = std::fabs(value);
  if (size >= 65520.0f) return sign | 0x7c00;
  int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
  // The spacing of halves there is 2^(exponent - 10); nearbyint rounds ties to even.
  const auto steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return static_cast<uint16_t>(sign + (static_cast<uint32_t>(exponent + 14) << 10) + steps);
}

}  // namespace emu
