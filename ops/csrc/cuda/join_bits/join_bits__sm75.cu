// Parts joined along the channels bit by bit: one thread per output word, which collects what each part has in it.
#include "cuda/arithmetic.h"

namespace mbu::cuda {

MBU_KERNEL void __launch_bounds__(kFlatThreads) join_bits__sm75(const __grid_constant__ JoinBitsParams p) {
  const int32_t item = flat_index();
  if (item >= p.items) return;
  const Quotient at = divide_by(item, p.by_words);
  const Place px = place_of(at.quotient, p.by_width, p.by_height);
  const int32_t begin = 32 * at.remainder;
  Word joined = 0;
  for (int32_t i = 0, first = 0; i < p.parts; first += p.part[i++].channels) {
    const JoinedPart& part = p.part[i];
    const int32_t last = first + part.channels;
    if (begin + 32 <= first || begin >= last) continue;
    const Word* bits = part.data + px.n * part.stride_n + px.y * part.stride_h + px.x * part.stride_w;
    if (begin <= first) {
      joined |= bits[0] << (first - begin);
      continue;
    }
    const int32_t skip = begin - first, word = skip / 32, shift = skip % 32;
    joined |= bits[word] >> shift;
    if (shift && 32 * (word + 1) < part.channels) joined |= bits[word + 1] << (32 - shift);
  }
  p.output[item] = joined;
}

}  // namespace mbu::cuda
