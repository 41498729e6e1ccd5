// Parts joined along the channels bit by bit: one thread per output word, which collects what each part has in it.
#include "cuda/arithmetic.h"

namespace mbu::cuda {

// torch's nearest: the rounding of the float product is part of the definition.
MBU_DEVICE int32_t nearest(int32_t index, float scale, int32_t size) {
  if (scale == 0.0f) return index;
  const int32_t at = static_cast<int32_t>(static_cast<float>(index) * scale);
  return at < size ? at : size - 1;
}

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
    const Word* bits = part.data + px.n * part.stride_n +
                       nearest(px.y, part.row_scale, part.height) * part.stride_h +
                       nearest(px.x, part.column_scale, part.width) * part.stride_w;
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
