#define MBU_ISA neon
#include "cpu/head/head_windows.inc"
