"""What a real-valued shortcut does on its way around a convolution (Bi-Real Net, arXiv:1808.00278)."""

from __future__ import annotations

from torch import Tensor


def match_channels(x: Tensor, channels: int) -> Tensor:
    """Fits a real-valued shortcut to another channel count, without parameters.

    Growing repeats the channels, shrinking averages groups of them.

    Args:
        x: `[N, C, H, W]`.
        channels: wanted count, a multiple or a divisor of C.

    Raises:
        ValueError: neither count divides the other.
    """
    have = x.shape[1]
    if have == channels:
        return x
    if channels % have == 0:
        return x.repeat(1, channels // have, 1, 1)
    if have % channels == 0:
        return x.unflatten(1, (have // channels, channels)).mean(1)
    raise ValueError(
        f"a shortcut cannot lead from {have} to {channels} channels: one must divide the other. "
        "Choose a `width` that keeps channel counts multiples of each other, or shortcuts=False."
    )
