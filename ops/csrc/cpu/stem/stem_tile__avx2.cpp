#define MBU_ISA avx2
#include "cpu/stem/stem_tile.inc"
