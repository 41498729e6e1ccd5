"""Real-valued shortcuts and shifted activations around one-bit layers, added to any model.

    y = batch_norm(conv(sign(x)))               as it was
    y = rprelu(y)                               `shift`: ReActNet, arXiv:2003.03488, Eq. 4
    y = y + x                                   `shortcut`: Bi-Real Net, arXiv:1808.00278, figure 3

Both fade in with the layer's gate: the float network is the model's own. The batch norm stays where it is, with its
parameters under their names, but computes inside the layer in front of it, which is the one that knows x.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .trace import Trace

if TYPE_CHECKING:
    from .plan import Plan


class RPReLU(nn.Module):
    """x - gamma + zeta where x > gamma, else beta * (x - gamma) + zeta, per channel (arXiv:2003.03488, Eq. 4).

    Args:
        channels: C; gamma and zeta start at 0, beta at 0.25, as PReLU does.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.zeta = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> same shape."""
        shifted = x - self.gamma.view(1, -1, 1, 1)
        return nn.functional.prelu(shifted, self.beta) + self.zeta.view(1, -1, 1, 1)


class BridgedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that the layer in front of it runs (`bridge`); in its own place it passes its input on."""

    shift: RPReLU | None
    shortcut: bool

    def forward(self, input: Tensor) -> Tensor:
        return input

    def bridge(self, y: Tensor, x: Tensor, gate: Tensor | None) -> Tensor:
        """Batch norm, activation and shortcut.

        Args:
            y: output of the convolution, `[N, C, H, W]`.
            x: what the convolution's binarizer reads; of y's shape where there is a shortcut.
            gate: scalar in [0, 1]; None for 1.
        """
        y = super().forward(y)
        if self.shift is not None:
            shifted = self.shift(y)
            y = shifted if gate is None else torch.lerp(y, shifted, gate.to(y.dtype))
        if self.shortcut:
            y = y + (x if gate is None else x * gate.to(x.dtype))
        return y

    def extra_repr(self) -> str:
        parts = [super().extra_repr()] + (["shift"] if self.shift is not None else [])
        return ", ".join(parts + (["shortcut"] if self.shortcut else []))


def bridged_norm(norm: nn.BatchNorm2d, shortcut: bool, shift: bool) -> BridgedBatchNorm2d:
    """A `BridgedBatchNorm2d` that shares the parameters and buffers of `norm`; added keys are `shift.*`.

    Raises:
        TypeError: `norm` is not exactly a `BatchNorm2d`.
    """
    if type(norm) is not nn.BatchNorm2d:
        raise TypeError(
            f"{type(norm).__name__} cannot be bridged; only nn.BatchNorm2d can. Leave shortcuts and shift off here."
        )
    new = BridgedBatchNorm2d.__new__(BridgedBatchNorm2d)
    new.__dict__.update(norm.__dict__)
    for registry in ("_parameters", "_buffers", "_modules"):
        new.__dict__[registry] = dict(norm.__dict__[registry])
    like = norm.weight if norm.weight is not None else norm.running_mean
    new.shift = RPReLU(norm.num_features).to(like) if shift else None
    new.shortcut = shortcut
    return new.train(norm.training)


@dataclass(frozen=True)
class _Bridge:
    """What follows a layer: its batch norm's name, whether x and y have one shape, whether a sum reads it."""

    norm: str
    same_shape: bool
    added: bool


def _find_bridges(traced: Trace, model: nn.Module, layers: set[str]) -> dict[str, _Bridge]:
    """Layer -> bridge, for layers that run once and are read by a batch norm alone, which runs once too."""
    readers = traced.readers()
    calls: dict[str, int] = {}
    for op in traced.operations:
        if "batch_norm" in op.name or op.name == "convolution":
            calls[op.module] = calls.get(op.module, 0) + 1
    found = {}
    for op in traced.operations:
        if op.name != "convolution" or op.module not in layers or calls[op.module] > 1:
            continue
        reading = readers.get(op.index, [])
        if len(reading) != 1 or calls.get(reading[0].module, 0) != 1:
            continue
        norm = reading[0]
        if type(model.get_submodule(norm.module)) is not nn.BatchNorm2d or norm.module == op.module:
            continue
        source = op.inputs[0]
        shape = traced.operations[source].shape if source >= 0 else traced.input_shape
        added = any(reader.name == "add" for reader in readers.get(norm.index, []))
        found[op.module] = _Bridge(norm.module, shape == op.shape, added)
    return found


def add_bridges(plan: Plan, traced: Trace, model: nn.Module, shortcuts: bool, shift: bool) -> Plan:
    """`plan` with shortcuts and shifted activations where they fit.

    A shortcut fits around a layer whose input and output have one shape and that has none yet. A shifted activation
    fits where a sum follows; in front of a binarizer it would be one more threshold.
    """
    if not shortcuts and not shift:
        return plan
    bridges = _find_bridges(traced, model, {layer.name for layer in plan.quantized})
    layers = []
    for layer in plan.layers:
        bridge = bridges.get(layer.name)
        if bridge is not None:
            shortcut = shortcuts and bridge.same_shape and not bridge.added
            shifts = shift and (shortcut or bridge.added)
            if shortcut or shifts:
                layer = replace(layer, norm=bridge.norm, shortcut=shortcut, shift=shifts)
        layers.append(layer)
    return replace(plan, layers=tuple(layers))
