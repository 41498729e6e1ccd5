"""One-bit convolutions to time: the lines of a shapes file, and the operation with random data for one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits, pack_weight


@dataclass(frozen=True)
class Layer:
    """One line of a shapes file."""

    name: str
    channels: int
    out_channels: int
    height: int
    width: int
    kernel: int
    stride: int
    padding: int
    dilation: int = 1
    groups: int = 1
    transposed: bool = False

    @property
    def pixels(self) -> int:
        """Those that each weight is multiplied with: a transposed layer spreads every input pixel, an ordinary one gathers
        for every output pixel."""
        if self.transposed:
            return self.height * self.width
        less = 2 * self.padding - self.dilation * (self.kernel - 1) - 1
        return ((self.height + less) // self.stride + 1) * ((self.width + less) // self.stride + 1)

    @property
    def gmac(self) -> float:
        """Multiply-adds in 10^9."""
        return self.pixels * self.channels // self.groups * self.out_channels * self.kernel**2 / 1e9


def read_shapes(path: Path) -> list[Layer]:
    """The one-bit convolutions of a shapes file, one per line; `#` starts a comment.

    name C OC H W kernel stride padding [dilation [groups]] kind, where kind is masked, binary or up (transposed); others are
    left out.

    Raises:
        ValueError: a line has too few or too many numbers, or a transposed layer has groups.
    """
    layers = []
    for line in path.read_text().splitlines():
        name, *numbers, kind = line.split("#")[0].split() or ("", "")
        if kind not in ("masked", "binary", "up"):
            continue
        if not 7 <= len(numbers) <= 9:
            raise ValueError(
                f"{path}: {line!r} has {len(numbers)} numbers; C OC H W kernel stride padding are needed, dilation and groups "
                "may follow."
            )
        layer = Layer(name, *map(int, numbers), transposed=kind == "up")
        if layer.transposed and layer.groups > 1:
            raise ValueError(f"{path}: {line!r} is transposed and has groups; only ordinary layers may.")
        layers.append(layer)
    return layers


def prepare(
    layer: Layer, sums: bool, density: float = 1.0, zeros: bool = True
) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[], Tensor]]:
    """Weight planes, the operation on tiled ones and its reference, on random data.

    Args:
        layer: what to compute.
        sums: float sums instead of packed bits.
        density: share of blocks that are present.
        zeros: a third of the weights in them, or none.
    """
    torch.manual_seed(0)
    bits = pack_bits(torch.rand(1, layer.height, layer.width, layer.channels) < 0.5)
    shape = (layer.out_channels, layer.channels // layer.groups, layer.kernel, layer.kernel)
    weight = torch.randint(-1, 2, shape) if zeros else torch.randint(0, 2, shape) * 2 - 1
    blocks = torch.rand(-(-shape[0] // 32), -(-shape[1] // 32), *shape[2:]) < density
    present = blocks.repeat_interleave(32, 0).repeat_interleave(32, 1)
    planes = pack_weight(weight * present[: shape[0], : shape[1]], groups=layer.groups)
    threshold = torch.randint(-20, 21, (1, layer.out_channels), dtype=torch.int32)
    flip = torch.zeros(1, (layer.out_channels + 31) // 32, dtype=torch.int32)
    geometry: dict[str, Any] = {
        "stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation
    }  # fmt: skip
    fixed = geometry | {"out_channels": layer.out_channels, "kernel_size": layer.kernel}
    name = "conv_transpose2d" if layer.transposed else "conv2d"
    if sums:
        run, reference = getattr(F, name), getattr(R, name)
        return planes, lambda tiled: run(bits, tiled, **fixed), partial(reference, bits, planes, **geometry)
    run, reference = getattr(F, f"{name}_threshold"), getattr(R, f"{name}_threshold")
    return (
        planes,
        lambda tiled: run(bits, tiled, threshold, flip, **fixed),
        partial(reference, bits, planes, threshold, flip, **geometry),
    )
