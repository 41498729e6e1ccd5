"""CUDA kernels on a CPU: from their source or from their PTX, checked word by word (see emulator.h)."""
