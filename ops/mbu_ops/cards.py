"""Published peaks of NVIDIA cards, for the model of roofline.py."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Card:
    """Peaks of a card, dense.

    Attributes:
        family: the kernels that run there (csrc/cuda/choices.inc).
        multiprocessors: their number.
        fp16, int8, b1: 10^12 operations a second of the tensor cores (fp16 with fp32 sums), None where unknown.
        fp32: of the ordinary units.
        bandwidth: of its memory, 10^9 bytes a second.
        source: of the numbers.
    """

    name: str
    capability: int
    family: str
    multiprocessors: int
    fp16: float
    int8: float
    b1: float | None
    fp32: float
    bandwidth: float
    source: str


H200 = Card("H200", 90, "sm90_and", 132, 989, 1979, None, 67, 4800, "NVIDIA H200 data sheet; b1 unpublished")
CARDS = (
    Card("A100", 80, "sm80_xor", 108, 312, 624, 4992, 19.5, 1555, "NVIDIA A100 whitepaper, 40 GB"),
    Card("RTX 2080 Ti", 75, "sm75_xor", 68, 53.8, 215, 2088, 13.4, 616, "NVIDIA Turing whitepaper, GTC talk (b1)"),
    Card("RTX 4090", 89, "sm80_xor", 128, 165.2, 660.6, 5285, 82.6, 1008, "NVIDIA Ada whitepaper; b1 taken as 8 x int8"),
    Card("Orin Nano 8 GB", 87, "sm80_xor", 8, 10.2, 20.4, 163, 1.28, 68, "NVIDIA Orin data sheet; b1 taken as 8 x int8"),
    H200,
)  # fmt: skip
# What its one-bit rate may turn out to be, and its kernels for bytes, which MBU_CUDA_FAMILY=sm80_int8 asks for.
ASSUMED = (
    *(replace(H200, name=f"H200, if b1 runs at {times}x int8", b1=times * H200.int8) for times in (1, 2, 4)),
    replace(H200, name="H200 with products of bytes", family="sm80_int8"),
)
PREDICTED = (*CARDS[:-1], *ASSUMED)
