// Sharing under made-up loads: prints how many of 2000 operations, a millisecond each, were shared.
#include "torch/sharing.h"

#include <cstdio>

namespace {

int shared(double gained, double waited, int from = 0, int until = 2000) {
  mbu::Sharing sharing;
  int count = 0;
  for (int i = 0; i < 2000; ++i) {
    const double now = 100 + 0.001 * i;
    if (!sharing.pays(now)) continue;
    ++count;
    const bool bad = i >= from && i < until;
    sharing.add(bad ? gained : 0.0005, bad ? waited : 0.00001, now);
  }
  return count;
}

}  // namespace

int main() {
  std::printf("always good %d\n", shared(0.0005, 0.00001));
  std::printf("always bad %d\n", shared(0.0002, 0.003));
  std::printf("always a little bad %d\n", shared(0.00002, 0.00005));
  std::printf("one long wait %d\n", shared(0.0002, 0.004, 500, 501));
  std::printf("bad for a while %d\n", shared(0.0002, 0.003, 500, 800));
}
