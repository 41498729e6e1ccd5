#define MBU_ISA avx2
#include "cpu/stream/stream_rows.inc"
