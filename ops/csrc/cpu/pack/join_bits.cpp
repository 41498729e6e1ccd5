// Joins packed images along the channels without gaps. Of each output word it is known beforehand which input
// words lie in it, and how far they are shifted; a pixel is then a few loads, shifts and one store for each
// word.
#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "mbu/parallel.h"

namespace mbu {
namespace {

// Input words below which a second thread does not pay.
constexpr int64_t kGrain = 32768;

// An input word's share of an output word: (word << left) >> right, one of them 0.
struct Share {
  int64_t part, word;
  int left, right;
};

// Shares of output word `index`, in the order of the channels.
std::vector<Share> shares_of(const JoinBitsParams& p, int64_t index) {
  std::vector<Share> shares;
  const int64_t begin = index * kWordBits;
  for (int64_t i = 0, first = 0; i < p.parts; first += p.channels[i++]) {
    for (int64_t word = 0; word < p.part[i].words; ++word) {
      const int64_t shift = first + word * kWordBits - begin;
      const int64_t bits = std::min(kWordBits, p.channels[i] - word * kWordBits);
      if (shift >= kWordBits || shift + bits <= 0) continue;
      shares.push_back({i, word, static_cast<int>(std::max<int64_t>(shift, 0)),
                        static_cast<int>(std::max<int64_t>(-shift, 0))});
    }
  }
  return shares;
}

// One output word of `pixels` pixels; a later batch of its shares is added to what stands there.
template <int kShares>
void join_word(const Share* share, const Word* const* from, const int64_t* stride, bool adds, int64_t pixels,
               Word* to, int64_t to_stride) {
  for (int64_t x = 0; x < pixels; ++x, to += to_stride) {
    Word word = adds ? *to : 0;
    for (int i = 0; i < kShares; ++i) word |= (from[i][x * stride[i]] << share[i].left) >> share[i].right;
    *to = word;
  }
}

void join_row(const JoinBitsParams& p, const std::vector<Share>& shares, int64_t n, int64_t y, Word* to) {
  constexpr size_t kMost = 4;
  for (size_t first = 0; first < shares.size(); first += kMost) {
    const size_t count = std::min(kMost, shares.size() - first);
    const Share* share = shares.data() + first;
    const Word* from[kMost] = {};
    int64_t stride[kMost] = {};
    for (size_t i = 0; i < count; ++i) {
      const PackedImage& part = p.part[share[i].part];
      from[i] = part.data + n * part.stride_n + y * part.stride_h + share[i].word;
      stride[i] = part.stride_w;
    }
    const auto run = [&](auto join) { join(share, from, stride, first > 0, p.width, to, p.words); };
    count == 1   ? run(join_word<1>)
    : count == 2 ? run(join_word<2>)
    : count == 3 ? run(join_word<3>)
                 : run(join_word<4>);
  }
}

}  // namespace

void join_bits(const JoinBitsParams& p) {
  if (p.batch * p.height * p.width * p.words == 0) return;
  std::vector<std::vector<Share>> words;
  int64_t shares = 0;
  for (int64_t k = 0; k < p.words; ++k) {
    words.push_back(shares_of(p, k));
    shares += static_cast<int64_t>(words.back().size());
  }
  const int64_t grain = std::max<int64_t>(1, kGrain / (p.width * shares));
  parallel_for(p.batch * p.height, grain, [&](int64_t row) {
    Word* to = p.output + row * p.width * p.words;
    for (const std::vector<Share>& word : words) join_row(p, word, row / p.height, row % p.height, to++);
  });
}

}  // namespace mbu
