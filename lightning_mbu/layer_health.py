"""How each one-bit layer fares while it trains: flips, zeros, what its input looks like, where gradients end."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, fields
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from .health import check_finite, flip_ratio, mask_density, weight_states
from .layers import QuantizedConvolution
from .tables import as_text

# From this share of constant input channels on, a layer is told of.
_MANY = 0.5
# Values of a channel in a batch below which all may have one sign by chance.
_FEW = 64
# Values of a layer's input that are looked at, as whole images, one at least: 64 MB of float32.
_MOST = 1 << 24


@dataclass(frozen=True)
class LayerHealth:
    """A layer in one epoch, every number a share in [0, 1]; of its input in the epoch's first batch, None while it is in
    float.

    Attributes:
        flip_ratio: of the weights that changed state.
        mask_density: of the weights that are not zero.
        dead_channels: of the output channels without a weight that is not zero.
        saturated_weights: of the latent weights beyond +-1, which have no gradient.
        constant_channels: of the input channels, of every plane, whose bit is the same everywhere; None where a channel
            has fewer than 64 values in a batch.
        imbalance: mean of |share of +1 - share of -1| over input channels: 0 balanced, 1 constant.
        saturated_inputs: of the values further than 1 from their threshold, which pass the clipped estimator no gradient.
    """

    flip_ratio: float
    mask_density: float
    dead_channels: float
    saturated_weights: float
    constant_channels: float | None = None
    imbalance: float | None = None
    saturated_inputs: float | None = None


class HealthWatch:
    """Watches the layers of one run.

    Args:
        layers: name -> layer.

    Attributes:
        latest: name -> health in the last finished epoch.
    """

    def __init__(self, layers: dict[str, QuantizedConvolution]):
        self.layers = layers
        self.latest: dict[str, LayerHealth] = {}
        self._states = {name: weight_states(layer) for name, layer in layers.items()}
        self._inputs: dict[str, dict[str, Tensor]] = {}
        self._suspected: dict[str, int] = {}  # epochs in a row
        self._hooks: dict[str, Any] = {}

    def look(self) -> None:
        """Measures what reaches each one-bit layer next."""
        self._forget_hooks()
        self._inputs = {}
        for name, layer in self.layers.items():
            if layer.gate > 0:
                self._hooks[name] = layer.register_forward_pre_hook(self._measure(name))

    def _measure(self, name: str) -> Any:
        @torch.compiler.disable
        def hook(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._inputs[name] = input_health(layer, args[0].detach())  # type: ignore[arg-type]
            self._hooks.pop(name).remove()

        return hook

    def _forget_hooks(self) -> None:
        for hook in self._hooks.values():
            hook.remove()
        self._hooks = {}

    def end_epoch(self) -> list[str]:
        """Takes stock of the epoch; returns what the user should be told, once for each layer.

        Raises:
            FloatingPointError: a layer's weights are not finite any more.
        """
        self._forget_hooks()
        warnings = []
        for name, layer in self.layers.items():
            check_finite(layer)
            states = weight_states(layer)
            self.latest[name] = LayerHealth(
                flip_ratio(self._states[name], states),
                mask_density(states),
                (states.movedim(layer.output_axis, 0).flatten(1) == 0).all(1).float().mean().item(),
                (layer.latent_weight().detach().abs() > 1).float().mean().item(),
                **{key: value.item() for key, value in self._inputs.get(name, {}).items()},
            )
            self._states[name] = states
            constant = self.latest[name].constant_channels or 0.0
            self._suspected[name] = self._suspected.get(name, 0) + 1 if constant >= _MANY else 0
            if self._suspected[name] == 2:  # thresholds may still be on their way in the first epoch
                warnings.append(_constant_input(name, layer, constant))
        return warnings

    def numbers(self, each_layer: bool = False) -> dict[str, float]:
        """What to log: means of `latest` as `mbu/...`, each weight or layer counting the same.

        Args:
            each_layer: also every layer's own, as `mbu/<layer>/...`.
        """
        sizes = {name: layer.latent_weight().numel() for name, layer in self.layers.items()}
        masked = {name for name, layer in self.layers.items() if layer.kind == "masked"}
        values: dict[str, float] = {}
        for field in fields(LayerHealth):
            found = {name: getattr(health, field.name) for name, health in self.latest.items()}
            found = {name: value for name, value in found.items() if value is not None}
            if field.name == "mask_density":
                found = {name: value for name, value in found.items() if name in masked}
            if not found:
                continue
            by_weight = field.name in ("flip_ratio", "mask_density", "saturated_weights")
            weights = [sizes[name] for name in found] if by_weight else None
            values[f"mbu/{field.name}"] = statistics.fmean(found.values(), weights)
            if each_layer:
                values |= {f"mbu/{name}/{field.name}": value for name, value in found.items()}
        return values

    def __rich__(self) -> Table:
        table = Table(title="One-bit layers in the last epoch, %", title_justify="left")
        table.add_column("layer", no_wrap=True)
        for field in fields(LayerHealth):
            table.add_column(field.name.replace("_", " "), justify="right")
        for name, health in self.latest.items():
            values = [getattr(health, field.name) for field in fields(LayerHealth)]
            table.add_row(name, *("" if value is None else f"{100 * value:.1f}" for value in values))
        return table

    def __str__(self) -> str:
        return as_text(self, 140)


@torch.no_grad()
def input_health(layer: QuantizedConvolution, x: Tensor) -> dict[str, Tensor]:
    """`constant_channels`, `imbalance` and `saturated_inputs` of `LayerHealth` for a layer's input, as scalars."""
    images = layer.as_images(x)
    images = images[: max(1, _MOST // images.shape[1:].numel())]
    ones = (layer.binarize(images) > 0).float().mean((0, 2, 3))
    thresholds = layer.threshold.to(images.dtype).view(layer.planes, 1, -1, 1, 1)
    found = {
        "imbalance": (2 * ones - 1).abs().mean(),
        "saturated_inputs": torch.stack([((images - t).abs() > 1).float().mean() for t in thresholds]).mean(),
    }
    if images.numel() >= _FEW * images.shape[1]:
        found["constant_channels"] = ((ones == 0) | (ones == 1)).float().mean()
    return found


def _constant_input(name: str, layer: QuantizedConvolution, share: float) -> str:
    remedy = (
        "lower the learning rate of thresholds (MBUQuantize.parameter_groups(model, lr, extras_lr=0.1))"
        if layer.learns_threshold
        else "let it learn thresholds (MBUQuantize(thresholds='learned'))"
    )
    return (
        f"layer {name!r}: {share:.0%} of its input channels have the same bit in every pixel of a batch, for two epochs: "
        f"its weights on them cannot matter. Put a batch norm in front of it, {remedy}, or leave the layer float "
        f"(MBUQuantize(exclude=[{name!r}]))."
    )
