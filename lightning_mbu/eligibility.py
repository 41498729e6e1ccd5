"""Which layers may become one-bit at all, and why the others may not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .plain import own_forward
from .trace import Operation


def why_float(
    name: str,
    module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear,
    calls: list[Operation],
    roles: dict[str, str],
    convolutions: dict[str, list[Operation]],
    min_channels: int,
    exclude: Sequence[str],
) -> str:
    """The reason to leave a layer float, or `""`.

    Raises:
        ValueError: a layer that could become one-bit has weights without a sign.
    """
    reason = _reason(name, module, calls, roles, convolutions, min_channels, exclude)
    if not reason and not torch.isfinite(module.weight).all():
        raise ValueError(
            f"layer {name!r} has NaN or infinite weights; a sign cannot be taken of them. "
            "Restore the last good checkpoint and lower the learning rate."
        )
    return reason


def _reason(
    name: str,
    module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear,
    calls: list[Operation],
    roles: dict[str, str],
    convolutions: dict[str, list[Operation]],
    min_channels: int,
    exclude: Sequence[str],
) -> str:
    if any(name == part or name.startswith(part + ".") for part in exclude):
        return "excluded by name"
    if isinstance(module, nn.Linear):
        return _why_linear(module, calls, min_channels)
    if name == min(convolutions, key=lambda other: convolutions[other][0].index):
        return "first executed layer: reads the image"
    if roles[name] == "head":
        return "head: writes the prediction"
    if module.groups == module.in_channels > 1:
        return "depthwise: too few products per output to gain"
    if module.groups > 1 and isinstance(module, nn.ConvTranspose2d):
        return f"grouped ({module.groups}) and transposed: cannot be quantized"
    if other := own_forward(module):
        return f"{other} computes more than a convolution"
    if module.padding_mode != "zeros":
        return f"padding mode {module.padding_mode!r}: only zero padding is packed"
    if all(op.shape[2:] == (1, 1) for op in calls):
        return "squeeze-excite or global: one pixel, nothing to gain"
    few = min(module.in_channels // module.groups, module.out_channels)
    if few < min_channels:
        each = " in each group" if module.groups > 1 else ""
        return f"{few} channels{each}: fewer than min_channels={min_channels}"
    return ""


def _why_linear(layer: nn.Linear, calls: list[Operation], min_channels: int) -> str:
    if all(op.shape[0] == 1 for op in calls):
        return "linear, one row: nothing to gain"
    few = min(layer.in_features, layer.out_features)
    return f"{few} channels: fewer than min_channels={min_channels}" if few < min_channels else ""
