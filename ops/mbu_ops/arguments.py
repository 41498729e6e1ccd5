"""What the documented operations accept beside tensors and lists, brought to what ``torch.ops.mbu`` takes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

IntPair = int | Sequence[int]
Bits = Tensor | Sequence[Tensor]


def pair(value: IntPair) -> list[int]:
    """An int or (height, width) -> ``[height, width]``."""
    return [value, value] if isinstance(value, int) else list(value)


def parts(bits: Bits) -> list[Tensor]:
    """One packed tensor, or several to be joined along the channels -> a list."""
    return [bits] if isinstance(bits, Tensor) else list(bits)
