"""The trained network, made to read the packed network's bits where rounding alone parts the two.

Floats between packed layers may be added up in another order, as those that attention averages are: channels last here,
contiguous there. A value within one rounding of its threshold can then become the other bit, and whatever follows from
that bit differs with good reason. With the bit set in the trained network as the packed one has it, all that follows
must agree again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import QuantizedConvolution
from ..prepare import quantized_layers


def is_close(x: Tensor, threshold: Tensor) -> Tensor:
    """Where the two lie within one rounding: the spacing of floats at the larger of them."""
    spacing = torch.maximum(x.abs(), threshold.abs()) * torch.finfo(x.dtype).eps
    return (x - threshold).abs() <= spacing


def settle(layer: QuantizedConvolution, x: Tensor, bits: Tensor) -> Tensor:
    """`x`, its values that are within one rounding of a threshold moved to the side that `bits` says.

    Args:
        layer: reads `x`.
        bits: bool `[N, planes * C, H, W]`, what the packed layer reads.
    """
    images = layer.as_images(x)
    planes = layer.threshold.detach().to(images).view(layer.planes, 1, -1, 1, 1)
    for threshold, wanted in zip(planes, bits.to(images.device).chunk(layer.planes, 1), strict=True):
        flipped = ((images - threshold >= 0) != wanted) & is_close(images, threshold)
        below = torch.nextafter(threshold, torch.full_like(threshold, -torch.inf))
        images = torch.where(flipped, torch.where(wanted, threshold, below), images)
    return images if images.shape == x.shape else images.permute(0, 2, 3, 1).reshape(x.shape)


@contextmanager
def recorded_inputs(
    model: nn.Module, bits: Mapping[str, Sequence[Tensor]] | None = None
) -> Iterator[dict[str, list[Tensor]]]:
    """Keeps what every masked-binary layer reads, call by call, before it is settled.

    Args:
        bits: layer -> what the packed layer read in each call; None settles nothing.
    """
    inputs: dict[str, list[Tensor]] = {name: [] for name, _ in quantized_layers(model)}

    def keeping(name: str) -> Any:
        def keep(module: QuantizedConvolution, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            # Cloned, since a later in-place operation may overwrite it.
            inputs[name].append(args[0].clone().cpu())
            calls = bits.get(name, ()) if bits else ()
            if len(inputs[name]) > len(calls):
                return None
            return settle(module, args[0], calls[len(inputs[name]) - 1]), *args[1:]

        return keep

    handles = [layer.register_forward_pre_hook(keeping(name)) for name, layer in quantized_layers(model)]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
