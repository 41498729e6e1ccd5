#define MBU_ISA scalar
#include "cpu/head/head_windows.inc"
