#define MBU_ISA avx512
#include "cpu/stream/stream_rows.inc"
