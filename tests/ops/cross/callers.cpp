// Several threads call the same kernels at once, each with an input and results of its own and a weight in
// common.
#include <cstdio>
#include <thread>

#include "harness.h"

namespace cross {
namespace {

constexpr int kCallers = 3, kCalls = 4;

struct Layer {
  Bits in;
  Guarded<float> sums;
  Guarded<Word> pooled;

  Layer(Random& r, int64_t size)
      : in(r, 2, size, size, 70, 1), sums(2 * size * size * 40), pooled(2 * size * size * 3) {}

  void run(const Weights& weights) {
    const int64_t size = in.h;
    Conv2dParams p{};
    p.input = in.image();
    p.out_channels = 40;
    p.kernel = {3, 3}, p.stride = p.padding = p.dilation = {1, 1}, p.output = {size, size};
    p.zero_padding = true;
    p.sums = sums.data();
    weights.convolve(p);
    max_pool2d({in.image(), {3, 3}, {1, 1}, {1, 1}, {1, 1}, {size, size}, pooled.data()});
  }
};

}  // namespace

void check_callers(Random& r) {
  std::snprintf(current, sizeof(current), "several callers");
  threads = 2;
  std::vector<Word> planes(2 * 40 * 9 * 3);
  for (Word& word : planes) word = static_cast<Word>(r.bits()) & 0x3f;
  for (size_t i = 0; i < planes.size() / 2; ++i) planes[i + planes.size() / 2] |= planes[i];
  const Weights weights(planes.data(), 40, {3, 3}, 3);
  std::vector<std::unique_ptr<Layer>> layers;
  for (int i = 0; i < kCallers; ++i) layers.push_back(std::make_unique<Layer>(r, 9 + 4 * i));
  std::vector<std::vector<float>> sums;
  std::vector<std::vector<Word>> pooled;
  for (const auto& layer : layers) {  // alone, each
    layer->run(weights);
    const int64_t pixels = 2 * layer->in.h * layer->in.w;
    sums.emplace_back(layer->sums.data(), layer->sums.data() + pixels * 40);
    pooled.emplace_back(layer->pooled.data(), layer->pooled.data() + pixels * 3);
  }
  for_each_kernel(
      [&] {
        for (const auto& layer : layers) layer->sums.fill_bytes(0xa5), layer->pooled.fill_bytes(0xa5);
      },
      [&] {
        std::vector<std::thread> callers;
        for (const auto& layer : layers)
          callers.emplace_back([&] {
            for (int i = 0; i < kCalls; ++i) layer->run(weights);
          });
        for (std::thread& caller : callers) caller.join();
      },
      [&] {
        bool right = true;
        for (size_t i = 0; i < layers.size(); ++i)
          right = right && layers[i]->sums.equals(sums[i]) && layers[i]->pooled.equals(pooled[i]);
        return right;
      });
}

}  // namespace cross
