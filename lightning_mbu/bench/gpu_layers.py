"""Single layers on a GPU: right first, then timed and judged by the rates that the card itself reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mbu_ops.cards import Card
from mbu_ops.cuda import last_kernel
from mbu_ops.roofline import bytes_of, operations_of, predict

from .gpu_launches import Launch, Run, make
from .gpu_rivals import microseconds

# What a layer should reach of the measured rate of its instruction, or of the memory's, whichever bounds it.
SHARE_OF_PEAK, SHARE_OF_BANDWIDTH = 0.5, 0.7
_SMALL = 6  # pixels along both axes of the image that the reference sees


def fewest(run: Run, x: Tensor) -> Tensor:
    """As many images of `x` as it takes for the CUDA kernel that runs all of them."""
    run(x)
    meant, images = last_kernel(), 1
    while images < len(x):
        run(x[:images])
        if last_kernel() == meant:
            break
        images *= 2
    return x[:images]


def checked(launch: Launch, x: Tensor) -> Callable[[], Tensor]:
    """A launch on `x`, checked on a small image against the reference, and by the kernel that runs `x` against the
    processor.

    Raises:
        RuntimeError: it differs.
    """
    made = make(launch)
    run, slower = made.place(x.device), made.place(torch.device("cpu"))
    small = launch.example(1, _SMALL, _SMALL, torch.device("cpu"))
    if not torch.equal(run(small.to(x.device)).cpu(), made.expected(small)):
        raise RuntimeError(f"{launch.name} differs from the reference on {x.device}; it is not timed")
    some = fewest(run, x)
    if not torch.equal(run(some).cpu(), slower(some.cpu())):
        raise RuntimeError(
            f"{launch.name} of {tuple(some.shape)} differs on {x.device} from the processor's; it is not timed"
        )
    return lambda: run(x)


def layer_row(
    launch: Launch, images: int, size: tuple[int, int], device: torch.device, card: Card | None, repeats: int
) -> dict[str, Any]:
    """Time of a launch of a network that reads `images` of `size`, its kernel, and how near it comes to what bounds it.

    Raises:
        RuntimeError: it differs from the reference, or from the processor.
    """
    smaller = round((images * size[0] * size[1] / launch.layers[0].input_pixels) ** 0.5)
    x = launch.example(images, size[0] // smaller, size[1] // smaller, device)
    median, low, high = microseconds(checked(launch, x), device, repeats)
    row = {"layer": launch.name, "images": images, "size": list(size), "us": median, "quartiles": [low, high]}
    row["kernel"] = last_kernel()
    return row | ({} if card is None else judge(launch, median, card))


def judge(launch: Launch, us: float, card: Card) -> dict[str, Any]:
    """`predicted_us` and `bound`, `peak` and `bandwidth` as shares reached, `met`; None where a rate is not known.

    The peak is that of the first layer's instruction; of the stem, the published one of float32.
    """
    first = launch.layers[0]
    parts = [predict(layer, card) for layer in launch.layers]
    moved = sum(bytes_of(layer, card) for layer in launch.layers) / us / 1e3 / card.bandwidth
    rate = card.fp32
    if first.one_bit:
        rate = card.int8 if card.family.endswith("int8") else card.b1
    if rate is None or any(part.us is None for part in parts):
        return {"predicted_us": None, "bound": None, "peak": None, "bandwidth": moved, "met": None}
    reached = operations_of(first, card) / us / 1e6 / rate
    arithmetic = (parts[0].arithmetic_us or 0.0) >= parts[0].memory_us
    met = reached >= SHARE_OF_PEAK if arithmetic else moved >= SHARE_OF_BANDWIDTH
    return {
        "predicted_us": sum(part.us or 0.0 for part in parts),
        "bound": "arithmetic" if arithmetic else "memory",
        "peak": reached,
        "bandwidth": moved,
        "met": met,
    }
