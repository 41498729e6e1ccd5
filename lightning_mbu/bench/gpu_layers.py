"""Single one-bit layers on a GPU: right first, then timed and judged by the rates that the card itself reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mbu_ops import pack_bits, pack_weight, reference
from mbu_ops.cards import Card
from mbu_ops.cuda import last_kernel
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


def placed(
    layer: Layer, weight: Tensor, threshold: Tensor, flip: Tensor, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """A layer with thresholds as a function of bits `[N, H, W, words]` on `device`."""
    kernel, one, none = weight.shape[3], [1, 1], [0, 0]
    tiles, limits, flips = torch.ops.mbu.tile_weight(weight.to(device)), threshold.to(device), flip.to(device)
    size, pad = [kernel] * 2, [kernel // 2] * 2

    def run(bits: Tensor) -> Tensor:
        if layer.kind == "up":
            return torch.ops.mbu.conv_transpose2d_threshold(
                [bits], tiles, limits, flips, layer.out_channels, size, [2, 2], none, none, one
            )
        return torch.ops.mbu.conv2d_threshold(
            [bits], tiles, limits, flips, layer.out_channels, size, one, pad, one
        )

    return run


def fewest(run: Callable[[Tensor], Tensor], bits: Tensor) -> Tensor:
    """As many images of `bits` as it takes for the CUDA kernel that runs all of them."""
    run(bits)
    meant, images = last_kernel(), 1
    while images < len(bits):
        run(bits[:images])
        if last_kernel() == meant:
            break
        images *= 2
    return bits[:images]


def layer_call(layer: Layer, bits: Tensor) -> Callable[[], Tensor]:
    """A layer of random weights with thresholds on `bits`, `[N, H, W, words]`, checked on a small image against the
    reference, and by the kernel that runs `bits` against the processor.

    Raises:
        RuntimeError: it differs.
    """
    up, device, cpu = layer.kind == "up", bits.device, torch.device("cpu")
    kernel = 2 if up else round(layer.taps**0.5)
    shape = layer.out_channels, layer.channels, kernel, kernel
    weight = pack_weight(
        torch.randint(0, 2, shape) * 2 - 1 if layer.kind == "binary" else torch.randint(-1, 2, shape)
    )
    threshold = torch.zeros(1, layer.out_channels, dtype=torch.int32)
    flip = torch.zeros(1, words_of(layer.out_channels), dtype=torch.int32)
    run, slower = (placed(layer, weight, threshold, flip, place) for place in (device, cpu))
    small = pack_bits(torch.rand(1, 6, 6, layer.channels) < 0.5)
    if up:
        expected = reference.conv_transpose2d_threshold(small, weight, threshold, flip, 2)
    else:
        expected = reference.conv2d_threshold(small, weight, threshold, flip, 1, kernel // 2)
    if not torch.equal(run(small.to(device)).cpu(), expected):
        raise RuntimeError(f"{layer.name} differs from the reference on {device}; it is not timed")
    some = fewest(run, bits)
    if not torch.equal(run(some).cpu(), slower(some.cpu())):
        raise RuntimeError(
            f"{layer.name} of {tuple(some.shape[:3])} differs on {device} from the processor's; it is not timed"
        )
    return lambda: run(bits)


def layer_row(
    layer: Layer, images: int, size: tuple[int, int], device: torch.device, card: Card | None, repeats: int
) -> dict[str, Any]:
    """Time of a layer of a network that reads `images` of `size`, its kernel, and how near it comes to what bounds it.

    Raises:
        RuntimeError: it differs from the reference, or from the processor.
    """
    smaller = round((images * size[0] * size[1] / layer.input_pixels) ** 0.5)
    shape = (images, size[0] // smaller, size[1] // smaller, words_of(layer.channels))
    bits = torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, device=device)
    median, low, high = microseconds(layer_call(layer, bits), device, repeats)
    row = {"layer": layer.name, "images": images, "size": list(size), "us": median, "quartiles": [low, high]}
    row["kernel"] = last_kernel()
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
