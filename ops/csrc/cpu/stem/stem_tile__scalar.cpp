#define MBU_ISA scalar
#include "cpu/stem/stem_tile.inc"
