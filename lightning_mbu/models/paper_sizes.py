"""Which settings of BiSegUNet meet Table 3 of its paper best: `python -m lightning_mbu.models.paper_sizes`.

The paper gives parameters and FLOPs of two sizes, in float and binarized, and no rule for counting. Every setting
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
    parser.add_argument("--show", type=int, default=5, help="candidates to show for each size")
    options = parser.parse_args()
    for size in PAPER:
        found = sorted(search(size), key=lambda candidate: candidate.distance)
        Console(width=150).print(table(size, found[: options.show]))


if __name__ == "__main__":
    main()
