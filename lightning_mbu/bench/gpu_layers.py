"""Single one-bit layers on a GPU: right first, then timed and judged by the rates that the card itself reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mbu_ops import pack_bits, pack_weight, reference
from mbu_ops.cards import Card
from mbu_ops.packing import words_of
from mbu_ops.roofline import Layer, bytes_of, operations_of, predict

from .gpu_rivals import microseconds

# What a layer should reach of the measured rate of its instruction, or of the memory's, whichever bounds it.
SHARE_OF_PEAK, SHARE_OF_BANDWIDTH = 0.5, 0.7


def distinct(layers: list[Layer]) -> Iterator[Layer]:
    """The one-bit layers without those that do the same again."""
    seen = set()
    for layer in layers:
        key = (layer.kind, layer.channels, layer.out_channels, layer.pixels, layer.taps)
        if layer.one_bit and key not in seen:
            seen.add(key)
            yield layer


def layer_call(layer: Layer, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A layer of random weights with thresholds, as a function of bits `[N, H, W, words]`, checked on a small image.

    Raises:
        RuntimeError: it differs from the reference.
    """
    up = layer.kind == "up"
    kernel = 2 if up else round(layer.taps**0.5)
    shape = layer.out_channels, layer.channels, kernel, kernel
    weight = pack_weight(
        torch.randint(0, 2, shape) * 2 - 1 if layer.kind == "binary" else torch.randint(-1, 2, shape)
    )
    threshold = torch.zeros(1, layer.out_channels, dtype=torch.int32)
    flip = torch.zeros(1, words_of(layer.out_channels), dtype=torch.int32)
    tiles = torch.ops.mbu.tile_weight(weight.to(device))
    limits, flips = threshold.to(device), flip.to(device)
    pad, size, one = [kernel // 2] * 2, [kernel] * 2, [1, 1]

    def run(bits: Tensor) -> Tensor:
        if up:
            return torch.ops.mbu.conv_transpose2d_threshold(
                [bits], tiles, limits, flips, layer.out_channels, size, [2, 2], [0, 0], [0, 0], one
            )
        return torch.ops.mbu.conv2d_threshold(
            [bits], tiles, limits, flips, layer.out_channels, size, one, pad, one
        )

    small = pack_bits(torch.rand(1, 6, 6, layer.channels) < 0.5)
    if up:
        expected = reference.conv_transpose2d_threshold(small, weight, threshold, flip, 2)
    else:
        expected = reference.conv2d_threshold(small, weight, threshold, flip, 1, kernel // 2)
    if not torch.equal(run(small.to(device)).cpu(), expected):
        raise RuntimeError(f"{layer.name} differs from the reference on {device}; it is not timed")
    return run


def layer_row(
    layer: Layer, images: int, size: tuple[int, int], device: torch.device, card: Card | None, repeats: int
) -> dict[str, Any]:
    """Time of a layer of a network that reads `images` of `size`, and how near it comes to what bounds it.

    Raises:
        RuntimeError: it differs from the reference.
    """
    run = layer_call(layer, device)
    smaller = round((images * size[0] * size[1] / layer.input_pixels) ** 0.5)
    shape = (images, size[0] // smaller, size[1] // smaller, words_of(layer.channels))
    bits = torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, device=device)
    median, low, high = microseconds(lambda: run(bits), device, repeats)
    row = {"layer": layer.name, "images": images, "size": list(size), "us": median, "quartiles": [low, high]}
    return row | ({} if card is None else judge(layer, median, card))


def judge(layer: Layer, us: float, card: Card) -> dict[str, Any]:
    """`predicted_us` and `bound`, `peak` and `bandwidth` as shares reached, `met`; None where a rate is not known."""
    p = predict(layer, card)
    rate = card.int8 if card.family.endswith("int8") else card.b1
    moved = bytes_of(layer, card) / us / 1e3 / card.bandwidth
    if p.arithmetic_us is None or rate is None:
        return {"predicted_us": None, "bound": None, "peak": None, "bandwidth": moved, "met": None}
    reached = operations_of(layer, card) / us / 1e6 / rate
    arithmetic = p.arithmetic_us >= p.memory_us
    met = reached >= SHARE_OF_PEAK if arithmetic else moved >= SHARE_OF_BANDWIDTH
    bound = "arithmetic" if arithmetic else "memory"
    return {"predicted_us": p.us, "bound": bound, "peak": reached, "bandwidth": moved, "met": met}
