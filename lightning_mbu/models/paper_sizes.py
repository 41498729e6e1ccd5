"""BiSegUNet beside Tables 1 and 3 of its paper: `python -m lightning_mbu.models.paper_sizes`.

Table 1 gives resolution and channels of every stage; they are read off running networks here. In Table 3 the paper gives parameters and FLOPs of two sizes, in float and binarized, and no rule for counting. Every setting
here is counted by rules that can be stated; the one with the smallest mean distance to the four numbers comes first.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..operations import BITS_PER_FLOAT, count_operations
from .bisegunet import BiSegUNet

# Table 3: parameters and FLOPs in float, then binarized.
PAPER = {(512, 1024): (18.5e6, 194.7e9, 4.3e6, 10.4e9), (1024, 2048): (23.4e6, 390.3e9, 6.7e6, 27.5e9)}
COLUMNS = ("float parameters", "float FLOPs", "binarized parameters", "binarized FLOPs")
# Table 1, for an image of 512x512: stage, what computes it here, height and channels of its result; an encoder's capacity
# block keeps what the encoder has. None: the classes.
STAGES = (
    ("stem block", "gateway", 512, 128),
    ("encoder stage 1", "encoder1", 256, 256), ("its capacity block", "capacity1", 256, 256),
    ("encoder stage 2", "encoder2", 128, 512), ("its capacity block", "capacity2", 128, 512),
    ("encoder stage 3", "encoder3", 64, 1024), ("its capacity block", "capacity3", 64, 1024),
    ("encoder stage 4", "encoder4", 32, 2048), ("its capacity block", "capacity4", 32, 2048),
    ("bottleneck layer", "anp", 32, 1024),
    ("decoder stage 1", "decoder3", 64, 1024), ("decoder stage 2", "decoder2", 128, 512),
    ("decoder stage 3", "decoder1", 256, 256), ("decoder stage 4", "output", 512, 128),
    ("capacity block", "capacity0", 512, 128), ("output layer", "head", 512, None),
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One setting and what it counts to.

    Attributes:
        settings: arguments of `BiSegUNet`.
        counts: as in `COLUMNS`.
        distance: mean of |log(count / paper)| over the four.
    """

    settings: dict[str, Any]
    counts: tuple[float, float, float, float]
    distance: float


def one_bit_layers(model: BiSegUNet, grouped: bool = True) -> list[str]:
    """The convolutions that a binarized BiSegUNet has in one bit: all but gateway, head and spatial attention.

    Args:
        model: float network.
        grouped: whether grouped convolutions (branches D and G) belong to them.
    """
    return [
        name for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d)
        and not name.startswith(("gateway", "head"))
        and not name.endswith("spatial")
        and (grouped or module.groups == 1)
    ]  # fmt: skip


def count(settings: dict[str, Any], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """`COLUMNS` of the network with these settings.

    Parameters are counted with the grouped convolutions in float, operations with all of them one-bit: no single
    rule comes near both of the paper's numbers.
    """
    with torch.device("meta"):
        model = BiSegUNet(**settings)
    operations = count_operations(model, (1, 3, *size), one_bit_layers(model))
    weights = dict(model.named_parameters())
    whole = sum(p.numel() for p in weights.values())
    bits = sum(weights[f"{name}.weight"].numel() for name in one_bit_layers(model, grouped=False))
    parameters = whole - bits + bits / BITS_PER_FLOAT
    return whole, operations.float_flops + operations.one_bit, parameters, operations.flops


def stages(side: int = 512, **settings: Any) -> dict[str, tuple[int, int]]:
    """Height and channels of what every part of `BiSegUNet(**settings)` computes of an image of `side` x `side`."""
    found: dict[str, tuple[int, int]] = {}
    with torch.device("meta"), torch.no_grad():
        model = BiSegUNet(**settings)
        for name, part in model.named_children():

            def keep(_part, _inputs, y, name=name):
                found[name] = y.shape[2], y.shape[1]

            part.register_forward_hook(keep)
        model(torch.empty(1, 3, side, side))
    return found


def stage_table() -> Table:
    """Table 1 beside networks of its width, with all blocks, and of `bisegunet_512`'s."""
    settings = ({"width": 128, "capacity_blocks": 5}, {"width": 48})
    found = [stages(**options) for options in settings]
    result = Table(title="Height and channels of every stage, image of 512x512", title_justify="left")
    for heading in ("stage of Table 1", "paper", "here", "width 128, 5 blocks", "width 48, 4 blocks"):
        result.add_column(heading)
    for stage, name, height, channels in STAGES:
        cells = ("{}, {}".format(*network[name]) if name in network else "" for network in found)
        result.add_row(stage, f"{height}, {channels or 'classes'}", name, *cells)
    parameters = (f"{count(options, (512, 512))[0] / 1e6:.1f} M" for options in settings)
    result.add_row("float parameters", f"{PAPER[512, 1024][0] / 1e6:.1f} M (Table 3)", "", *parameters)
    return result


def search(size: tuple[int, int], widths: range = range(40, 65, 8)) -> Iterator[Candidate]:
    """Every valid combination of width, stride of the gateway, number of blocks and groups at `size`."""
    for width, stride, blocks, groups in itertools.product(widths, (1, 2), (4, 5), (1, 2, 4, 8)):
        if width % (4 * groups):
            continue
        settings = {"width": width, "stem_stride": stride, "capacity_blocks": blocks, "groups": groups}
        counts = count(settings, size)
        distance = sum(abs(math.log(c / p)) for c, p in zip(counts, PAPER[size], strict=True)) / len(counts)
        yield Candidate(settings, counts, distance)


def table(size: tuple[int, int], candidates: list[Candidate]) -> Table:
    """The candidates beside the paper's row."""
    result = Table(title=f"BiSegUNet at {size[0]}x{size[1]}, closest first", title_justify="left")
    for heading in ("width", "stem stride", "blocks", "groups", *COLUMNS, "distance"):
        result.add_column(heading, justify="right")
    units = (1e6, 1e9, 1e6, 1e9)
    result.add_row(
        "paper", "", "", "", *(f"{p / u:.1f}" for p, u in zip(PAPER[size], units, strict=True)), ""
    )
    for candidate in candidates:
        counts = [
            f"{c / u:.1f} ({c / p - 1:+.0%})"
            for c, u, p in zip(candidate.counts, units, PAPER[size], strict=True)
        ]
        settings = (str(value) for value in candidate.settings.values())
        result.add_row(*settings, *counts, f"{candidate.distance:.3f}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--show", type=int, default=5, help="candidates for Table 3 to show at each size")
    options = parser.parse_args()
    Console(width=150).print(stage_table())
    for size in PAPER:
        found = sorted(search(size), key=lambda candidate: candidate.distance)
        Console(width=150).print(table(size, found[: options.show]))


if __name__ == "__main__":
    main()
