#define MBU_ISA scalar
#include "cpu/stream/stream_rows.inc"
