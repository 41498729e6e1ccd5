#include "mbu/scratch.h"

namespace mbu {

Scratch::~Scratch() {
  std::free(data_);
}

}  // namespace mbu
