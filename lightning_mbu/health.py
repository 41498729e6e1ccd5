"""Numbers that tell whether a one-bit network is learning: flips, zeros, balance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
def check_finite(network: nn.Module) -> None:
    """Stops a run that cannot recover, before a checkpoint replaces the last good one.

    Raises:
        FloatingPointError: a parameter, or a statistic of a batch norm, holds NaN or infinity; it names it and the ways
            out.
    """
    # Statistics too: one image of NaN spoils them for good, even where its step is skipped. Other buffers may hold
    # infinities that are meant, as masks of attention do.
    statistics = [(n, b) for n, b in network.named_buffers() if n.endswith(("running_mean", "running_var"))]
    for name, values in [*network.named_parameters(), *statistics]:
        if not torch.isfinite(values).all():
            raise FloatingPointError(
                f"{name!r} has become NaN or infinite, and training cannot bring it back. The checkpoints written so far "
                "are good. Lower the learning rate or clip gradients (Trainer(gradient_clip_val=1.0)), look for a batch "
                "without a labelled pixel, or let Trainer(detect_anomaly=True) name the operation."
            )


@torch.no_grad()
def pull_to_one(weight: Tensor, strength: float) -> Tensor:
    """Gradient of `strength * ||w - sign(w)||_1` with respect to `weight` (BiSegUNet, Eq. 24)."""
    return strength * torch.sign(weight.abs() - 1) * torch.sign(weight)


def binary_fraction(layers: dict[str, QuantizedConvolution]) -> float:
    """How much of all weights works one-bit, in [0, 1]; a layer in between counts by its gate."""
    weights = {name: layer.weight.numel() for name, layer in layers.items()}
    gated = sum(weights[name] * float(layer.gate * layer.weight_gate) for name, layer in layers.items())
    return gated / sum(weights.values())
