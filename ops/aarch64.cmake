# Cross-builds the library for 64-bit Arm Linux: `make wheel-aarch64`. Headers of torch and of Python say the same on both
# processors: the stable interfaces are plain C, and both are 64-bit Linux. CUDA images are code of the card.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
