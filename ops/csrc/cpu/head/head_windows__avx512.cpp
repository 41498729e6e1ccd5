#define MBU_ISA avx512
#include "cpu/head/head_windows.inc"
