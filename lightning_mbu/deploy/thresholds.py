"""Where a monotone float function crosses a binarizer: thresholds found with the model's own arithmetic.

Between the integer dot product d of one layer and the bit that the next one reads lies float arithmetic
f(d) = batch_norm(scale * d + bias) ... >= t. Solving for d on paper gives a formula whose rounding differs from f's.
So the crossing is searched instead, by bisection with f itself. That is exact because every operation in f is
monotone in floating point too: rounding never reverses an order.

    gamma > 0:  f rises,  bit = (d >= tau)
    gamma < 0:  f falls,  bit = (d < tau), stored as not (d >= tau)    -> flip
    gamma = 0:  f is constant, the bit is always set or never          -> tau = lowest, with or without flip
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LOWEST_INT = -(2**31)  # every dot product is above it

Predicate = Callable[[Tensor], Tensor]


def _bisect(is_set: Predicate, low: int, high: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per channel: the first position in (low, high] whose bit differs from that at `low`; whether the bit falls
    there; and whether it never changes."""
    lows = torch.full((channels,), low, dtype=torch.int64)
    highs = torch.full((channels,), high, dtype=torch.int64)
    at_low, at_high = is_set(lows), is_set(highs)
    falls, constant = at_low & ~at_high, at_low == at_high
    while bool(((highs - lows) > 1).any()):
        middle = lows + (highs - lows) // 2
        changed = is_set(middle) != at_low
        highs = torch.where(changed, middle, highs)
        lows = torch.where(changed, lows, middle)
    return highs, torch.where(constant, ~at_low, falls), constant


def integer_thresholds(is_set: Predicate, limit: int, channels: int) -> tuple[Tensor, Tensor]:
    """Finds tau and flip with `bit = (d >= tau) ^ flip` for every integer |d| <= limit.

    Args:
        is_set: the bit that the model computes for dot products int64 `[C]`; bool `[C]`, monotone per channel.
        limit: largest possible |d|, at most 2^24 (float32 holds every integer up to there).
        channels: C.

    Returns:
        int32 `[C]`, bool `[C]`.

    Raises:
        ValueError: `limit` is beyond 2^24.
    """
    if limit > 2**24:
        raise ValueError(
            f"a dot product of up to {limit} terms exceeds 2^24, beyond which float32 skips integers. "
            "Split the layer into fewer input channels."
        )
    tau, flip, constant = _bisect(is_set, -limit - 1, limit + 1, channels)
    return torch.where(constant, LOWEST_INT, tau).to(torch.int32), flip


def _float_at(position: Tensor) -> Tensor:
    """Position on the line of all float32 values, in order, -> the value; 0 is +0.0."""
    magnitude = torch.where(position >= 0, position, -position)
    bits = torch.where(position >= 0, magnitude, magnitude - 2**31)
    return bits.to(torch.int32).view(torch.float32)


_LARGEST_FLOAT = 0x7F7FFFFF  # position of the largest finite float32


def float_thresholds(is_set: Predicate, channels: int) -> tuple[Tensor, Tensor]:
    """Finds t and flip with `bit = (x >= t) ^ flip` for every finite float32 x.

    Args:
        is_set: the bit that the model computes for float32 `[C]`; bool `[C]`, monotone per channel.
        channels: C.

    Returns:
        float32 `[C]`, bool `[C]`.
    """
    position, flip, constant = _bisect(
        lambda p: is_set(_float_at(p)), -_LARGEST_FLOAT, _LARGEST_FLOAT, channels
    )
    return torch.where(constant, -torch.inf, _float_at(position)), flip
