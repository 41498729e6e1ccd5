"""Numbers that tell whether a one-bit network is learning: flips, zeros, balance."""

from __future__ import annotations

import torch
from torch import Tensor

from .layers import QuantizedConvolution


@torch.no_grad()
def weight_states(layer: QuantizedConvolution) -> Tensor:
    """The quantized weight as int8, shape of `layer.weight`, values in {-1, 0, +1}."""
    return layer.quantized_weight().to(torch.int8)


def flip_ratio(before: Tensor, after: Tensor) -> float:
    """Share of weights whose state changed between two `weight_states`, in [0, 1].

    Near 0 over a whole run means that the learning rate is too low for latent weights: nothing is being learned.
    """
    return (before != after).float().mean().item()


def mask_density(states: Tensor) -> float:
    """Share of weights that are not zero, in [0, 1]."""
    return (states != 0).float().mean().item()


@torch.no_grad()
def pull_to_one(weight: Tensor, strength: float) -> Tensor:
    """Gradient of `strength * ||w - sign(w)||_1` with respect to `weight` (BiSegUNet, Eq. 24)."""
    return strength * torch.sign(weight.abs() - 1) * torch.sign(weight)
