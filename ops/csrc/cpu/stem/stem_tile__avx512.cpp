#define MBU_ISA avx512
#include "cpu/stem/stem_tile.inc"
