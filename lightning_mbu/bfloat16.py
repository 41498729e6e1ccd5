"""A float network in bfloat16: the ways there are to run one, and the processors on which it can pay."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

# Instructions that make bfloat16 faster than float32. AVX-512's own are not among them: without AMX tiles U-Nets were
# slower in bfloat16, in torch.compile and in OpenVINO alike. `bfloat16=True` of `compare` times it nevertheless.
FAST_BFLOAT16 = {"amx_bf16", "bf16"}
SLOW_BFLOAT16 = "this processor has no instructions that make it faster than float32"
BFLOAT16_EAGER, BFLOAT16_COMPILED = "bfloat16 eager", "bfloat16 compiled"
# Largest difference from float32, as a share of the largest output. Eight bits of mantissa lose 1/256 in
# every layer, and an untrained network forgives nothing: this catches another function, not rounding.
BFLOAT16_TOLERANCE = 0.5


def in_bfloat16(model: nn.Module, example: Tensor) -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Each way by name: a function and what it takes.

    Args:
        model: float32; not changed.
        example: float32 image in the memory format to use; `model` is brought into channels_last.
    """
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return twin(x)

    return {
        "autocast": (autocast, example),
        "cast": (copy.deepcopy(twin).to(torch.bfloat16), example.bfloat16()),
    }
