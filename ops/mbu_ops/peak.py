"""The rate of each tensor-core instruction on a card, by kernels that multiply constants and nothing else."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from . import cuda

THREADS, CHAINS = 256, 8  # csrc/cuda/params.h
# Sums of a thread in one step of a form, and the places of K in each.
_STEPS = {
    "sm75_xor": (4, 256),
    "sm80_xor": (4, 256),
    "sm90_and": (4, 256),
    "sm80_int8": (4, 32),
    "sm90_wgmma_and": (128, 256),
    "sm90_wgmma_int8": (128, 32),
}
INSTRUCTIONS = {
    "sm75_xor": "b1 m8n8k128 xor.popc",
    "sm80_xor": "b1 m16n8k256 xor.popc",
    "sm90_and": "b1 m16n8k256 and.popc",
    "sm80_int8": "s8 m16n8k32",
    "sm90_wgmma_and": "b1 m64n256k256 and.popc, wgmma",
    "sm90_wgmma_int8": "s8 m64n256k32, wgmma",
}
"""Form -> its instruction. The last two have no convolutions: they show what warpgroups would reach."""


@dataclass(frozen=True)
class Peak:
    """Attributes:
    instruction: shape, type and product.
    rate: 10^12 operations a second, a multiply-add counting as two; None where `why` says what stood against it.
    """

    instruction: str
    rate: float | None
    why: str


def operations(form: str, blocks: int, rounds: int) -> int:
    """Of one launch."""
    return 2 * total(form, rounds) * THREADS * blocks


def total(form: str, rounds: int) -> int:
    """What every thread of a launch must have written."""
    sums, places = _STEPS[form]
    return sums * places * CHAINS * rounds


def peak_rates(device: torch.device, rounds: int = 4096, blocks_each: int = 8) -> list[Peak]:
    """Every instruction on a card, with `blocks_each` blocks of 256 threads per multiprocessor.

    Raises:
        RuntimeError: a kernel's sums are wrong.
    """
    index = device.index or 0
    names = [kernel.name for kernel in cuda.cuda_kernels()]
    blocks = blocks_each * cuda.cuda_devices()[index].multiprocessors
    text = ctypes.create_string_buffer(1024)
    peaks = []
    for form, instruction in INSTRUCTIONS.items():
        out = torch.zeros(blocks, THREADS, dtype=torch.int32, device=device)
        stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
        pointer = ctypes.c_void_p(out.data_ptr())
        kernel = names.index(f"peak__{form}")
        time = cuda._functions().mbu_cuda_peak(
            index, kernel, blocks, rounds, pointer, stream, text, len(text)
        )
        if time <= 0:
            peaks.append(Peak(instruction, None, text.value.decode()))
            continue
        if not bool((out == total(form, rounds)).all()):
            raise RuntimeError(
                f"{instruction}: sums differ from {total(form, rounds)}; the rate is not reported"
            )
        peaks.append(Peak(instruction, operations(form, blocks, rounds) / time / 1e6, ""))
    return peaks
