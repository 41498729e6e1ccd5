"""Which subclasses of the convolutions are convolutions, judged by what they compute; and layers that take their place."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


@torch.no_grad()
def own_forward(layer: nn.Conv2d | nn.ConvTranspose2d) -> str:
    """Name of the class whose `forward` computes something else than the plain layer's, or `""`.

    A subclass (smp's and timm's convolutions with TensorFlow's padding, weight standardization) is judged by what it
    computes: the same as the plain layer on images of several sizes, or something of its own.
    """
    plain = nn.ConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else nn.Conv2d
    if type(layer).forward is plain.forward:
        return ""
    extent = max(d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    generator = torch.Generator().manual_seed(0)
    for more in (1, 2, 5):  # odd and even sizes: what is padded may depend on the remainder
        x = torch.randn(1, layer.in_channels, extent + more, extent + more, generator=generator)
        x = x.to(layer.weight)
        mine, plains = layer(x), plain.forward(layer, x)  # type: ignore[arg-type]
        if mine.shape != plains.shape or not torch.equal(mine, plains):
            return type(layer).__name__
    return ""


def adopt(layer: nn.Module, kind_of: Any) -> Any:
    """A `kind_of` with the state of `layer`: same parameter objects under the same names, hooks included."""
    new = kind_of.__new__(kind_of)
    new.__dict__.update(layer.__dict__)
    new.__dict__.update(
        {name: dict(layer.__dict__[name]) for name in ("_parameters", "_buffers", "_modules")}
    )
    return new
