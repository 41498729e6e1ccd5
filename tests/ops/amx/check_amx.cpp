// Runs the AMX kernel on emulated tiles (amx_emulation.h) and compares every output with a loop over the
// definition of the operation. Without arguments: the check. With the name of a fault: breaks that rule of
// the tiles, so that the test sees the emulation object.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "amx_cases.h"
#include "cpu/kernels.h"
#include "mbu/parallel.h"

namespace mbu {

int threads = 1;  // what the driver is told: more threads make it split the channels of a band

int num_threads() {
  return threads;
}

void parallel_range(int64_t count, int64_t, RangeFunction function, void* context) {
  function(0, count, context);
}

void conv2d_32x32__amx_int8(const Conv2dTile&);

void pack__scalar(const PackRow&);
void unpack__scalar(const UnpackRow&);
void add_residual__scalar(const ResidualRow&);
void finish_row__scalar(const StreamRow&);

const CpuKernel& cpu_kernel() {
  static const CpuKernel kernel{"amx_int8",
                                "emulated",
                                WeightLayout::bits,
                                512 << 10,
                                [] { return true; },
                                nullptr,
                                conv2d_32x32__amx_int8,
                                true,
                                pack__scalar,
                                unpack__scalar,
                                add_residual__scalar,
                                finish_row__scalar,
                                nullptr,
                                nullptr};
  return kernel;
}

const CpuKernel& kernel_for(const CpuKernel& kernel, const Conv2dParams&) {
  return kernel;
}

}  // namespace mbu

namespace {

using namespace mbu;

int64_t output_size(int64_t in, int64_t k, int64_t s, int64_t p, int64_t d, bool transposed, int64_t extra) {
  const int64_t reach = d * (k - 1) + 1;
  if (transposed) return (in - 1) * s - 2 * p + reach + extra;
  return in + 2 * p < reach ? 0 : (in + 2 * p - reach) / s + 1;
}

// Whether some output meets some input along one axis; where none does, there is nothing to multiply.
bool meets_input(int64_t in, int64_t out, int64_t k, int64_t s, int64_t p, int64_t d, bool transposed) {
  for (int64_t i = 0; i < (transposed ? in : out); ++i)
    for (int64_t tap = 0; tap < k; ++tap) {
      const int64_t other = i * s - p + tap * d;
      if (other >= 0 && other < (transposed ? out : in)) return true;
    }
  return false;
}

// The operation on plain numbers. Returns the number of outputs that differ.
int64_t run(const Case& c, uint64_t seed) {
  std::mt19937_64 random(seed);
  const int64_t words = words_of(c.channels), pitch = words + c.gap, taps = c.kernel.h * c.kernel.w;
  auto coin = [&](double chance) { return static_cast<double>(random() >> 11) * 0x1p-53 < chance; };

  std::vector<Word> input(static_cast<size_t>(c.batch * c.height * c.width * pitch));
  for (Word& word : input) word = static_cast<Word>(random());
  auto activation = [&](int64_t n, int64_t y, int64_t x, int64_t channel) -> int32_t {
    if (y < 0 || y >= c.height || x < 0 || x >= c.width) return c.zero_padding ? 0 : -1;
    const Word word = input[static_cast<size_t>(((n * c.height + y) * c.width + x) * pitch + channel / 32)];
    return word >> (channel % 32) & 1 ? 1 : -1;
  };

  std::vector<bool> blocks(static_cast<size_t>(words_of(c.out_channels) * taps * words));
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = coin(c.blocks);
  std::vector<int8_t> weight(static_cast<size_t>(c.out_channels * taps * c.channels));
  const int64_t plane = c.out_channels * taps * words;
  std::vector<Word> planes(static_cast<size_t>(2 * plane));
  for (int64_t i = 0; i < c.out_channels * taps; ++i) {
    for (int64_t channel = 0; channel < c.channels; ++channel) {
      const bool own = channel / (c.channels / c.groups) == i / taps / (c.out_channels / c.groups);
      const int64_t block = (i / taps / 32 * taps + i % taps) * words + channel / 32;
      const bool present = own && coin(c.density) && blocks[static_cast<size_t>(block)], positive = coin(0.5);
      weight[static_cast<size_t>(i * c.channels + channel)] = !present ? 0 : positive ? 1 : -1;
      const auto word = static_cast<size_t>(i * words + channel / 32);
      planes[word] |= Word{present && positive} << (channel % 32);
      planes[word + static_cast<size_t>(plane)] |= Word{present} << (channel % 32);
    }
  }
  const WordRanges ranges = find_word_ranges(planes.data(), c.out_channels, taps, words);
  std::vector<int32_t> tiled(
      static_cast<size_t>(TiledWeight::size(WeightLayout::bits, c.out_channels, c.kernel, ranges.count)));
  tile_weight(planes.data(), c.out_channels, c.kernel, words, WeightLayout::bits, ranges, tiled.data());

  Conv2dParams p{};
  p.input = {input.data(),    c.batch, c.height, c.width, words, c.height * c.width * pitch,
             c.width * pitch, pitch};
  p.weight = {tiled.data()};
  p.out_channels = c.out_channels;
  p.kernel = c.kernel;
  p.stride = c.stride;
  p.padding = c.padding;
  p.dilation = c.dilation;
  p.transposed = c.transposed;
  p.zero_padding = c.zero_padding;
  p.output = {output_size(c.height, c.kernel.h, c.stride.h, c.padding.h, c.dilation.h, c.transposed,
                          c.output_padding.h),
              output_size(c.width, c.kernel.w, c.stride.w, c.padding.w, c.dilation.w, c.transposed,
                          c.output_padding.w)};
  if (p.output.h < 1 || p.output.w < 1) return 0;

  const int64_t oc_words = words_of(c.out_channels), pixels = c.batch * p.output.h * p.output.w;
  // Where random dot products lie: further out, a bit would tell nothing about its sum.
  const auto reach = static_cast<int32_t>(std::sqrt(static_cast<double>(taps * c.channels))) + 1;
  std::vector<int32_t> threshold(static_cast<size_t>(c.planes * c.out_channels));
  for (int32_t& t : threshold)
    t = static_cast<int32_t>(random() % static_cast<uint64_t>(2 * reach + 1)) - reach;
  for (size_t i = 0; i < threshold.size(); i += 5) threshold[i] = i % 2 ? INT32_MIN : INT32_MAX;
  std::vector<Word> flip(static_cast<size_t>(c.planes * oc_words));
  for (Word& word : flip) word = coin(0.5) ? static_cast<Word>(random()) : 0;
  std::vector<float> sums(c.planes ? 0 : static_cast<size_t>(pixels * c.out_channels), 1e9f);
  std::vector<float> streamed(sums.size(), 1e9f);  // of any type, which is at most as large
  std::vector<Word> stream_bits(c.planes ? 0 : static_cast<size_t>(pixels * oc_words), 0xdeadbeef);
  // The stream's shortcut: the mean of `terms` values, exact in every order.
  const int64_t terms = c.planes ? 0 : int64_t{1} << random() % 4 >> 1,
                shortcut_channels = terms * c.out_channels;
  constexpr FloatType kTypes[] = {FloatType::f32, FloatType::bf16, FloatType::fixed8};
  const FloatType type = kTypes[random() % 3], shortcut_type = kTypes[random() % 3];
  const auto value_at = [](const std::vector<float>& values, int64_t i, FloatType of) {
    const void* value = at(values.data(), i, of);
    return of == FloatType::f32    ? *static_cast<const float*>(value)
           : of == FloatType::bf16 ? widen(*static_cast<const Bfloat16*>(value))
                                   : widen(*static_cast<const Fixed8*>(value));
  };
  const auto put = [](float value, std::vector<float>& values, int64_t i, FloatType of) {
    void* to = at(values.data(), i, of);
    if (of == FloatType::f32) narrow(value, *static_cast<float*>(to));
    if (of == FloatType::bf16) narrow(value, *static_cast<Bfloat16*>(to));
    if (of == FloatType::fixed8) narrow(value, *static_cast<Fixed8*>(to));
  };
  std::vector<float> shortcut(static_cast<size_t>(pixels * shortcut_channels));
  for (int64_t i = 0; i < pixels * shortcut_channels; ++i)
    put(static_cast<float>(random() % 17) / 2 - 4, shortcut, i, shortcut_type);
  const std::vector<float> level(static_cast<size_t>(c.out_channels), 3.0f);
  std::vector<Word> bits(static_cast<size_t>(pixels * c.planes * oc_words), 0xdeadbeef);
  p.planes = c.planes;
  (c.planes ? p.sums = nullptr : p.sums = sums.data());
  if (c.planes) p.bits = bits.data();
  p.threshold = threshold.data();
  p.flip = flip.data();

  threads = c.threads;
  // A new thread has no scratch memory yet, so that reading past its end is an error that a sanitizer sees.
  bool released = false;
  int64_t products = 0;
  const bool multiplies =
      !p.weight.header().skips &&
      (!c.zero_padding ||
       (meets_input(c.height, p.output.h, c.kernel.h, c.stride.h, c.padding.h, c.dilation.h, c.transposed) &&
        meets_input(c.width, p.output.w, c.kernel.w, c.stride.w, c.padding.w, c.dilation.w, c.transposed)));
  std::thread([&] {
    conv2d(p);
    if (!c.planes) {  // the float stream goes through the same sums: its step doubles them, adds 1 and the
                      // shortcut
      std::vector<float> affine(static_cast<size_t>(2 * c.out_channels), 2);
      std::fill(affine.begin() + c.out_channels, affine.end(), 1.0f);
      Stream stream{};
      stream.affine = affine.data();
      stream.steps = stream.pool = stream.upsample = 1;
      stream.output = streamed.data();
      stream.type = type;
      const StreamSource source{shortcut.data(),
                                shortcut_channels,
                                p.output.h * p.output.w * shortcut_channels,
                                1,
                                p.output.w * shortcut_channels,
                                shortcut_channels,
                                shortcut_type};
      stream.residual = &source;
      stream.residuals = terms > 0;
      stream.residual_channels = shortcut_channels;
      stream.bits = stream_bits.data();
      stream.threshold = level.data();
      stream.planes = 1;
      Conv2dParams q = p;
      q.sums = nullptr;
      q.stream = &stream;
      conv2d(q);
    }
    products = amx_emulation::state().products;
    const bool used = amx_emulation::state().configurations > 0 && products > 0;
    released = !amx_emulation::state().configured && (used || !multiplies);
  }).join();
  if (!released) {
    std::printf("tiles unused or left configured: %s\n", c.text().c_str());
    return 1;
  }

  if (c.products && products != c.products) {
    std::printf("%ld tile products: %s\n", static_cast<long>(products), c.text().c_str());
    return 1;
  }

  int64_t wrong = 0;
  for (int64_t i = 0; i < pixels; ++i) {
    const int64_t x = i % p.output.w, y = i / p.output.w % p.output.h, n = i / p.output.w / p.output.h;
    std::vector<Word> expected(static_cast<size_t>(c.planes * oc_words));
    for (int64_t oc = 0; oc < c.out_channels; ++oc) {
      int32_t dot = 0;
      for (int64_t ky = 0; ky < c.kernel.h; ++ky) {
        for (int64_t kx = 0; kx < c.kernel.w; ++kx) {
          int64_t row = y * c.stride.h - c.padding.h + ky * c.dilation.h;
          int64_t column = x * c.stride.w - c.padding.w + kx * c.dilation.w;
          if (c.transposed) {
            row = y + c.padding.h - ky * c.dilation.h;
            column = x + c.padding.w - kx * c.dilation.w;
            if (row % c.stride.h || column % c.stride.w) continue;
            row /= c.stride.h;
            column /= c.stride.w;
          }
          const int8_t* w = weight.data() + ((oc * c.kernel.h + ky) * c.kernel.w + kx) * c.channels;
          for (int64_t channel = 0; channel < c.channels; ++channel)
            dot += w[channel] * activation(n, row, column, channel);
        }
      }
      if (!c.planes) {
        const int64_t place = i * c.out_channels + oc;
        float y = static_cast<float>(2 * dot + 1), added = 0;
        for (int64_t term = 0; term < terms; ++term)
          added += value_at(shortcut, i * shortcut_channels + term * c.out_channels + oc, shortcut_type);
        if (terms) y += added / static_cast<float>(terms);
        std::vector<float> stored(1);
        put(y, stored, 0, type);
        y = value_at(stored, 0, type);
        const Word word = stream_bits[static_cast<size_t>(i * oc_words + oc / 32)];
        wrong += sums[static_cast<size_t>(place)] != static_cast<float>(dot) ||
                 value_at(streamed, place, type) != y || (word >> (oc % 32) & 1) != (y >= 3.0f);
      }
      for (int64_t t = 0; t < c.planes; ++t) {
        const bool flipped = flip[static_cast<size_t>(t * oc_words + oc / 32)] >> (oc % 32) & 1;
        const bool bit = (dot >= threshold[static_cast<size_t>(t * c.out_channels + oc)]) != flipped;
        expected[static_cast<size_t>(t * oc_words + oc / 32)] |= Word{bit} << (oc % 32);
      }
    }
    for (size_t k = 0; k < expected.size(); ++k)
      wrong += bits[static_cast<size_t>(i) * expected.size() + k] != expected[k];
  }
  if (wrong) std::printf("%ld wrong: %s\n", static_cast<long>(wrong), c.text().c_str());
  return wrong;
}

int break_rule(const std::string& rule) {
  struct alignas(64) Config {
    uint8_t bytes[64] = {1};
    void tile(int i, uint8_t rows, uint8_t row_bytes) {
      bytes[16 + 2 * i] = row_bytes;
      bytes[48 + i] = rows;
    }
  } config;
  for (int i = 0; i < 8; ++i) config.tile(i, 16, 64);
  if (rule == "palette") config.bytes[0] = 2;
  if (rule == "reserved") config.bytes[7] = 1;
  if (rule == "rows") config.tile(3, 17, 64);
  if (rule == "half") config.tile(3, 16, 0);
  if (rule == "shape") config.tile(6, 8, 64);
  if (rule != "unconfigured") _tile_loadconfig(&config);
  _tile_zero(0);
  if (rule == "same")
    _tile_dpbssd(0, 4, 4);
  else
    _tile_dpbssd(0, 4, 6);
  return 0;  // the rule was not enforced
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) return break_rule(argv[1]);
  int64_t wrong = 0, count = 0;
  for (const Case& c : fixed_cases()) wrong += run(c, static_cast<uint64_t>(++count));
  for (uint64_t seed = 0; seed < 400; ++seed, ++count) wrong += run(random_case(seed), seed);
  std::printf("%ld layers, %ld outputs wrong\n", static_cast<long>(count), static_cast<long>(wrong));
  return wrong != 0;
}
