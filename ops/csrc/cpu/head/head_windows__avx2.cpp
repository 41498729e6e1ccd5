#define MBU_ISA avx2
#include "cpu/head/head_windows.inc"
