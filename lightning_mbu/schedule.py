"""When each layer becomes one-bit: training progress -> phase and gates. Pure numbers, no torch."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

PHASES = ("float", "incremental", "quantized")
ORDERS = ("forward", "reverse", "cost", "all")
# Sharpness of the annealed estimator at the start and the end of a run (IR-Net, arXiv:1909.10788, section 3.3).
_SHARPNESS = (0.1, 10.0)


@dataclass(frozen=True)
class Phases:
    """Shares of a training run (BiSegUNet, section III.B: 50, 100 and 30 of 180 epochs).

    Attributes:
        float_share: share of the run in full precision, in [0, 1].
        incremental_share: share over which the layers switch one after another; the rest is fully quantized.
        ramp: share over which a switching layer's gate rises from 0 to 1; 0 switches at once.
        weights_after: share by which a layer's weights follow its activations; 0 switches both together. Two
            stages, activations first, are arXiv:2003.13033 (Real-to-Binary) and arXiv:2003.03488 (ReActNet).

    Raises:
        ValueError: a share is outside [0, 1], or nothing is left for the quantized phase.
    """

    float_share: float = 0.0
    incremental_share: float = 0.0
    ramp: float = 0.0
    weights_after: float = 0.0

    def __post_init__(self) -> None:
        for name in ("float_share", "incremental_share", "ramp", "weights_after"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must be a share of the run, between 0 and 1.")
        total = self.quantized_start
        if total >= 1:
            raise ValueError(
                f"float_share={self.float_share}, incremental_share={self.incremental_share}, ramp={self.ramp} and "
                f"weights_after={self.weights_after} add up to {total:g}; their sum must stay below 1, so that the run ends fully quantized."
            )

    @property
    def quantized_start(self) -> float:
        """Progress from which every gate is 1."""
        return self.float_share + self.incremental_share + self.ramp + self.weights_after

    def phase(self, progress: float) -> str:
        """`"float"`, `"incremental"` or `"quantized"` at `progress` in [0, 1]."""
        if progress >= self.quantized_start:
            return "quantized"
        return "float" if progress < self.float_share else "incremental"

    def switch(self, position: int, count: int) -> float:
        """Progress at which layer `position` of `count` starts to switch."""
        return self.float_share + self.incremental_share * position / max(count, 1)

    def gate(self, progress: float, position: int, count: int) -> float:
        """Gate of the activations of layer `position` (0 first) of `count`: 0 float, 1 quantized."""
        if progress >= self.quantized_start:
            return 1.0
        since = progress - self.switch(position, count)
        if since < 0:
            return 0.0
        return 1.0 if since >= self.ramp else since / self.ramp

    def weight_gate(self, progress: float, position: int, count: int) -> float:
        """Factor on that gate for the same layer's weights."""
        if progress >= self.quantized_start or not self.weights_after:
            return 1.0
        return self.gate(progress - self.weights_after, position, count)


def sharpness(progress: float) -> float:
    """Sharpness of the annealed estimator: from 0.1 to 10, by a constant factor a step."""
    low, high = _SHARPNESS
    return low * (high / low) ** min(max(progress, 0.0), 1.0)


def conversion_positions(names: list[str], cost: dict[str, float], order: str) -> dict[str, int]:
    """Layer -> place in the conversion order; `names` in executed order."""
    if order == "all":
        return dict.fromkeys(names, 0)
    if order == "reverse":
        names = names[::-1]
    elif order == "cost":
        names = sorted(names, key=lambda name: cost[name])
    return {name: place for place, name in enumerate(names)}


def warm_restart_cosine(progress: float, phases: Phases, final: float = 0.0) -> float:
    """Learning-rate factor: a cosine from 1 to `final` over each phase (BiSegUNet, figure 5).

    Args:
        progress: position in the run, in [0, 1].
        phases: phases of length zero are skipped.
        final: factor at the end of each phase.
    """
    edges = [0.0, phases.float_share, phases.quantized_start, 1.0]
    for start, end in itertools.pairwise(edges):
        if start <= progress < end or (end == 1.0 and progress >= start):
            inside = min((progress - start) / (end - start), 1.0)
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * inside))
    raise ValueError(f"progress={progress} must be at least 0.")
