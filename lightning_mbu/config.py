"""Presets of `MBUQuantize`: the settings of both papers, and ours."""

from __future__ import annotations

from dataclasses import dataclass

from .schedule import Phases


@dataclass(frozen=True)
class Preset:
    """Everything that a preset decides; each field is an argument of `MBUQuantize` of the same name.

    Attributes:
        phases: shares of the run.
        masked: which blocks are masked (`make_plan`).
        order: conversion order (`make_plan`).
        planes: thresholds per channel (`make_plan`).
        mask_rule: how masked layers choose their zeros (`quantizers.MaskedWeight`).
        scale: learn a positive scale per output channel.
        estimator: straight-through estimator of the activations.
        regularizer: strength of the pull of latent weights to +-1 (BiSegUNet, Eq. 24).
    """

    phases: Phases
    masked: float | str = 2 / 3
    order: str = "forward"
    planes: int = 1
    mask_rule: str = "twn"
    scale: bool = True
    estimator: str = "clipped"
    regularizer: float = 0.0


PRESETS: dict[str, Preset] = {
    # What lost least on three data sets (docs/results/accuracy.md): one-bit from the first step, with two thresholds per
    # channel, at twice the one-bit operations.
    "default": Preset(phases=Phases(), planes=2),
    # One threshold.
    "plain": Preset(phases=Phases()),
    # Quantized from the first step, 8 of 12 blocks masked, nothing learned beside weights and batch norms.
    "mbunet": Preset(phases=Phases(), scale=False),
    # 50 float, 100 incremental and 30 fully binary epochs of 180; learned alpha; L1 pull with 1e-4.
    "bisegunet": Preset(phases=Phases(50 / 180, 100 / 180), masked="none", regularizer=1e-4),
}


def preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset={name!r} is unknown; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]
