// What the library carries for the GPU: compiled images and the sources that NVRTC can compile in their
// place. The tables are written by csrc/cuda/build.py.
#pragma once

namespace mbu::cuda {

// One kernel file compiled for one target. Machine code (a cubin) for compute capability 8.6 has arch 86 and
// runs on 8.x with x >= 6; variant 'a' runs on that very capability alone. PTX runs on it and all later ones.
struct Image {
  const char* stem;
  int arch;
  char variant;  // ' ' or 'a'
  bool ptx;
  const unsigned char *begin, *end;  // end is a zero byte
};

struct Source {
  const char* name;  // as in #include
  const char* text;
};

// Each ends with an empty entry that the count leaves out.
extern const Image kImages[];
extern const int kImageCount;
extern const Source kSources[];
extern const int kSourceCount;

}  // namespace mbu::cuda
