#define MBU_ISA neon
#include "cpu/stream/stream_rows.inc"
