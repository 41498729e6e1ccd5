// pack, unpack and max_pool2d: one value at a time, at every float type and memory order.
#include <cmath>
#include <cstdio>
#include <cstring>

#include "harness.h"

namespace cross {
namespace {

// The value of a number whose exponent has `exponent_bits` and whose fraction has `fraction_bits`.
float decode(uint32_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t fraction = bits & ((1u << fraction_bits) - 1);
  const int exponent = static_cast<int>(bits >> fraction_bits & ((1u << exponent_bits) - 1));
  const double sign = bits >> (exponent_bits + fraction_bits) & 1 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return fraction ? NAN : static_cast<float>(sign * INFINITY);
  const double lead = exponent ? 1.0 : 0.0;
  const int power = (exponent ? exponent : 1) - bias;
  return static_cast<float>(sign * std::ldexp(lead + std::ldexp(fraction, -fraction_bits), power));
}

float decode(uint32_t bits, FloatType type) {
  if (type == FloatType::f32) return decode(bits, 8, 23);
  if (type == FloatType::fixed8) return static_cast<float>(static_cast<int8_t>(bits)) / 16;
  return type == FloatType::bf16 ? decode(bits, 8, 7) : decode(bits, 5, 10);
}

// Numbers near each other, so that a threshold taken from them is often met exactly; and some of all kinds.
uint32_t any_number(Random& r, FloatType type) {
  const uint32_t all = static_cast<uint32_t>(r.bits());
  if (r.below(4) == 0) return type == FloatType::f32 ? all : all & 0xffffu;
  const uint32_t sign = all & 1, small = static_cast<uint32_t>(r.below(8));
  if (type == FloatType::f32) return sign << 31 | (small ? 0x3f000000u + (small << 22) : 0);
  return sign << 15 | (small ? 0x3c00u + (small << 5) : 0);
}

struct Order {
  int64_t n, c, h, w;  // strides
};

void check_pack(Random& r, FloatType type, int64_t n, int64_t c, int64_t h, int64_t w, const Order& s) {
  const int64_t size = (n - 1) * s.n + (c - 1) * s.c + (h - 1) * s.h + (w - 1) * s.w + 1, words = words_of(c);
  const int64_t bytes = size_of(type);
  std::vector<uint32_t> numbers(static_cast<size_t>(size));
  Guarded<char> input(size * bytes);
  for (int64_t i = 0; i < size; ++i) {
    numbers[static_cast<size_t>(i)] = any_number(r, type);
    std::memcpy(input.data() + i * bytes, &numbers[static_cast<size_t>(i)], static_cast<size_t>(bytes));
  }
  const int64_t planes = 1 + r.below(3);
  std::vector<float> threshold(static_cast<size_t>(planes * c));
  std::vector<Word> flip(static_cast<size_t>(planes * words));
  for (int64_t k = 0; k < planes * c; ++k) {
    const float x = decode(numbers[static_cast<size_t>(k % c * s.c)], type);
    threshold[static_cast<size_t>(k)] = std::isnan(x) ? 0.5f : x + static_cast<float>(k / c);
  }
  for (Word& word : flip) word = static_cast<Word>(r.bits());

  PackParams p{};
  p.input = input.data();
  p.type = type;
  p.batch = n, p.channels = c, p.height = h, p.width = w;
  p.stride_n = s.n, p.stride_c = s.c, p.stride_h = s.h, p.stride_w = s.w;
  p.planes = planes;
  if (r.below(4)) p.threshold = threshold.data();
  if (r.below(2)) p.flip = flip.data();
  std::vector<Word> expected(static_cast<size_t>(n * h * w * planes * words));
  for (int64_t i = 0; i < n * h * w; ++i) {
    const int64_t x = i % w, y = i / w % h, in = i / w / h;
    for (int64_t k = 0; k < planes * c; ++k) {
      const int64_t channel = k % c, word = k / c * words + channel / 32;
      const auto from = static_cast<size_t>(in * s.n + channel * s.c + y * s.h + x * s.w);
      const float limit = p.threshold ? threshold[static_cast<size_t>(k)] : 0.0f;
      const bool flipped = p.flip && (flip[static_cast<size_t>(word)] >> (channel % 32) & 1);
      const bool reached = decode(numbers[from], type) >= limit;
      expected[static_cast<size_t>(i * planes * words + word)] |= Word{reached != flipped} << (channel % 32);
    }
  }
  Guarded<Word> output(n * h * w * planes * words);
  p.output = output.data();
  check(output, expected, [&] { pack(p); });
}

void check_unpack(Random& r, int64_t n, int64_t c, int64_t h, int64_t w) {
  Bits a(r, n, h, w, c, r.below(3));
  std::vector<float> expected;
  for (int64_t i = 0; i < n * h * w; ++i)
    for (int64_t k = 0; k < c; ++k)
      expected.push_back(static_cast<float>(a.value(i / w / h, i / w % h, i % w, k)));
  Guarded<float> output(static_cast<int64_t>(expected.size()));
  const UnpackParams p{a.image(), c, output.data()};
  check(output, expected, [&] { unpack(p); });
}

void check_max_pool(Random& r, int64_t c) {
  Bits a(r, 1 + r.below(2), 3 + r.below(8), 3 + r.below(12), c, r.below(3));
  MaxPool2dParams p{};
  p.input = a.image();
  p.kernel = {1 + r.below(3), 1 + r.below(3)};
  p.stride = {1 + r.below(3), 1 + r.below(3)};
  p.padding = {r.below(p.kernel.h / 2 + 1), r.below(p.kernel.w / 2 + 1)};
  p.dilation = {p.kernel.h == 2 ? 1 + r.below(2) : 1, p.kernel.w == 2 ? 1 + r.below(2) : 1};
  p.output.h = (a.h + 2 * p.padding.h - p.dilation.h * (p.kernel.h - 1) - 1) / p.stride.h + 1;
  p.output.w = (a.w + 2 * p.padding.w - p.dilation.w * (p.kernel.w - 1) - 1) / p.stride.w + 1;
  const int64_t pixels = a.n * p.output.h * p.output.w;
  std::vector<Word> expected(static_cast<size_t>(pixels * a.words));
  for (int64_t i = 0; i < pixels * p.kernel.h * p.kernel.w; ++i) {
    const int64_t pixel = i / (p.kernel.h * p.kernel.w), ky = i / p.kernel.w % p.kernel.h,
                  kx = i % p.kernel.w;
    const int64_t n = pixel / p.output.w / p.output.h;
    const int64_t y = pixel / p.output.w % p.output.h * p.stride.h - p.padding.h + ky * p.dilation.h;
    const int64_t x = pixel % p.output.w * p.stride.w - p.padding.w + kx * p.dilation.w;
    if (y < 0 || y >= a.h || x < 0 || x >= a.w) continue;
    for (int64_t k = 0; k < c; ++k)
      expected[static_cast<size_t>(pixel * a.words + k / 32)] |= Word{a.value(n, y, x, k) > 0} << (k % 32);
  }
  Guarded<Word> output(pixels * a.words);
  p.bits = output.data();
  check(output, expected, [&] { max_pool2d(p); });
}

}  // namespace

void check_packing(Random& r) {
  for (int64_t c : {1, 3, 31, 32, 33, 64, 71}) {
    const int64_t n = 1 + r.below(2), h = 1 + r.below(6), w = 1 + r.below(40), gap = r.below(3);
    const Order orders[] = {
        {c * h * w, h * w, w, 1},                        // pixels contiguous
        {c * h * (w + gap), h * (w + gap), w + gap, 1},  // the same, cut out of wider rows
        {h * w * c, 1, w * c, c},                        // channels contiguous
        {h * w * (c + gap), 1, w * (c + gap), c + gap},  // a slice of the channels
        {2 * c * h * w, 2 * h * w, 2 * w, 2},            // neither
    };
    threads = 1 + static_cast<int>(r.below(3));
    for (FloatType type : {FloatType::f32, FloatType::bf16, FloatType::f16, FloatType::fixed8}) {
      for (const Order& order : orders) {
        std::snprintf(current, sizeof(current), "pack type %d, order %d, %dx%dx%d", static_cast<int>(type),
                      static_cast<int>(&order - orders), static_cast<int>(h), static_cast<int>(w),
                      static_cast<int>(c));
        check_pack(r, type, n, c, h, w, order);
      }
    }
    std::snprintf(current, sizeof(current), "unpack %dx%dx%d", static_cast<int>(h), static_cast<int>(w),
                  static_cast<int>(c));
    check_unpack(r, n, c, h, w);
  }
}

void check_max_pools(Random& r) {
  for (int i = 0; i < 24; ++i) {
    const int64_t c = r.any({1, 31, 32, 33, 64, 90, 128, 256, 290, 512});
    std::snprintf(current, sizeof(current), "max_pool2d %d, %d channels", i, static_cast<int>(c));
    check_max_pool(r, c);
  }
}

}  // namespace cross
