// Sharing under made-up loads: prints how many of 2000 operations, a millisecond each, were shared.
#include "torch/sharing.h"

#include <cstdio>

namespace {

int shared(double saved, int from = 0, int until = 2000) {
  mbu::Sharing sharing;
  int count = 0;
  for (int i = 0; i < 2000; ++i) {
    const double now = 100 + 0.001 * i;
    if (!sharing.pays(now)) continue;
    ++count;
    const bool bad = i >= from && i < until;
    sharing.add(bad ? saved : 0.0005, now);
  }
  return count;
}

}  // namespace

int main() {
  std::printf("always good %d\n", shared(0.0005));
  std::printf("always bad %d\n", shared(-0.0028));
  std::printf("always a little bad %d\n", shared(-0.00003));
  std::printf("one long wait %d\n", shared(-0.0038, 500, 501));
  std::printf("bad from the middle on %d\n", shared(-0.008, 1000));
  std::printf("bad for a while %d\n", shared(-0.0028, 500, 800));
}
