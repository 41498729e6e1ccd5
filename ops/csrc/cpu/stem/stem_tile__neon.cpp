#define MBU_ISA neon
#include "cpu/stem/stem_tile.inc"
