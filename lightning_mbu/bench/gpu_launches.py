"""One launch of a packed network on a GPU, by itself: the operation with random numbers, and what it must give.

All numbers are integers small enough that float sums are exact, so that results are compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mbu_ops import pack_bits, pack_weight, reference
from mbu_ops.packing import WORD_BITS, words_of
from mbu_ops.roofline import Layer
from mbu_ops.stem import tile_stem_weight

Run = Callable[[Tensor], Tensor]
_OPS = torch.ops.mbu
_ONE, _NONE, _TWO = [1, 1], [0, 0], [2, 2]


@dataclass(frozen=True)
class Launch:
    """A layer, and with it the head that its kernel computes as well."""

    layers: tuple[Layer, ...]

    @property
    def name(self) -> str:
        return " + ".join(layer.name for layer in self.layers)

    def example(self, images: int, height: int, width: int, device: torch.device) -> Tensor:
        """A random input on `device`: bits `[N, H, W, words]`, of the stem an image `[N, C, H, W]`."""
        first = self.layers[0]
        if first.kind == "stem":
            shape = images, first.channels, height, width
            return torch.randint(-8, 9, shape, device=device).float()
        shape = images, height, width, words_of(first.channels)
        bits = torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, device=device)
        if left := first.channels % WORD_BITS:
            bits[..., -1] &= (1 << left) - 1
        return bits


class Made(NamedTuple):
    """Attributes:
    place: the operation with its constants on a device.
    expected: the same in plain torch, on the processor.
    """

    place: Callable[[torch.device], Run]
    expected: Run


def distinct(layers: Sequence[Layer]) -> Iterator[Launch]:
    """The launches of a network without those that do the same again."""
    seen = set()
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if layer.kind == "head":
            continue
        launch = (layer, following) if following is not None and following.kind == "head" else (layer,)
        key = tuple(replace(part, name="") for part in launch)
        if key not in seen:
            seen.add(key)
            yield Launch(launch)


def make(launch: Launch) -> Made:
    """The launch of random weights, which are the same wherever it is placed."""
    layer = launch.layers[0]
    if layer.kind == "pool":
        return Made(
            lambda _: lambda bits: _OPS.max_pool2d(bits, _TWO, _TWO, _NONE, _ONE, False),
            lambda bits: reference.max_pool2d(bits, 2),
        )
    if layer.kind == "stem":
        return _stem(layer)
    return _with_head(*launch.layers) if len(launch.layers) > 1 else _with_thresholds(layer)


def _integers(*shape: int, most: int) -> Tensor:
    return torch.randint(-most, most + 1, shape)


def _kernel(layer: Layer) -> int:
    return 2 if layer.kind == "up" else round(layer.taps**0.5)


def _planes(layer: Layer) -> Tensor:
    shape = layer.out_channels, layer.channels, _kernel(layer), _kernel(layer)
    return pack_weight(
        torch.randint(0, 2, shape) * 2 - 1 if layer.kind == "binary" else _integers(*shape, most=1)
    )


def _thresholds(layer: Layer) -> tuple[Tensor, Tensor]:
    flip = torch.zeros(1, words_of(layer.out_channels), dtype=torch.int32)
    return _integers(1, layer.out_channels, most=4).int(), flip


def _with_thresholds(layer: Layer) -> Made:
    planes, (threshold, flip), kernel, oc = (
        _planes(layer),
        _thresholds(layer),
        _kernel(layer),
        layer.out_channels,
    )
    size, pad = [kernel] * 2, [kernel // 2] * 2

    def place(device: torch.device) -> Run:
        constants = _OPS.tile_weight(planes.to(device)), threshold.to(device), flip.to(device), oc
        if layer.kind == "up":
            return lambda x: _OPS.conv_transpose2d_threshold([x], *constants, size, _TWO, _NONE, _NONE, _ONE)
        return lambda x: _OPS.conv2d_threshold([x], *constants, size, _ONE, pad, _ONE)

    def expected(bits: Tensor) -> Tensor:
        if layer.kind == "up":
            return reference.conv_transpose2d_threshold(bits, planes, threshold, flip, 2)
        return reference.conv2d_threshold(bits, planes, threshold, flip, 1, kernel // 2)

    return Made(place, expected)


def _with_head(layer: Layer, head: Layer) -> Made:
    planes, kernel, oc = _planes(layer), _kernel(layer), layer.out_channels
    affine = torch.stack([_integers(oc, most=2), _integers(oc, most=8)])[None].float()
    weight, bias = (
        _integers(head.out_channels, oc, most=2).float(),
        _integers(head.out_channels, most=2).float(),
    )

    def place(device: torch.device) -> Run:
        tiles = _OPS.tile_weight(planes.to(device))
        step, classes, offset = affine.to(device), weight.to(device), bias.to(device)
        geometry = oc, [kernel] * 2, _ONE, [kernel // 2] * 2, _ONE
        return lambda x: _OPS.conv2d_stream(
            [x], tiles, step, [], None, *geometry, relu=True, head=classes, head_bias=offset
        )[0]

    def expected(bits: Tensor) -> Tensor:
        sums = reference.conv2d(bits, planes, 1, kernel // 2)
        factor, offset = affine[0][..., None, None]
        return F.conv2d((sums * factor + offset).relu(), weight[..., None, None], bias)

    return Made(place, expected)


def _stem(layer: Layer) -> Made:
    kernel = _kernel(layer)
    weight = _integers(layer.out_channels, layer.channels, kernel, kernel, most=8).float()
    threshold, flip = _thresholds(layer)
    tiles, pad = tile_stem_weight(weight), [kernel // 2] * 2

    def place(device: torch.device) -> Run:
        constants = tiles.to(device), threshold.float().to(device), flip.to(device)
        return lambda x: _OPS.stem_threshold(x, *constants, _ONE, pad, _ONE)

    def expected(x: Tensor) -> Tensor:
        sums = reference.stem(x, weight, 1, kernel // 2)
        return pack_bits((sums >= threshold[0, :, None, None]).permute(0, 2, 3, 1))

    return Made(place, expected)
