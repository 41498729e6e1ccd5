"""Figure 3 of MBU-Net: which blocks are masked, against operations, Dice, zeros, and what each gains."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ..atomic import write_atomically
from ..roles import block_of
from . import results
from .shapley import named_subset, shapley_values

_OPERATIONS = "quantized GMAC, masked twice"
# Okabe and Ito's palette.
_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#BBBBBB"


def gains(lines: Sequence[dict[str, Any]], blocks: Sequence[str], score: str) -> dict[str, float]:
    """Mean gain of masking each block in `score`, a key of the lines."""
    return shapley_values({named_subset(line["row"], blocks): line[score] for line in lines}, blocks)


def zero_shares(runs: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Layer -> share of zeros in its weights, mean of the runs in which it is masked."""
    found: dict[str, list[float]] = {}
    for run in runs.values():
        for layer, zeros in run["zeros"].items():
            if zeros:
                found.setdefault(layer, []).append(zeros)
    layers = dict.fromkeys(layer for run in runs.values() for layer in run["zeros"])
    return {layer: statistics.fmean(found[layer]) for layer in layers if layer in found}


def table(gained: dict[str, float], score: str, configurations: int) -> Table:
    """The gains of `gains`, which are exact where all 2^n configurations are known."""
    how = "exact" if configurations == 2 ** len(gained) else "sampled"
    shown = Table(title=f"Mean gain of masking a block (Shapley value, {how})", title_justify="left")
    shown.add_column("block, cheapest first")
    shown.add_column(score, justify="right")
    for block, value in gained.items():
        shown.add_row(block, f"{value:+.4f}")
    return shown


def write(
    output: Path, name: str, runs: dict[str, dict[str, Any]], blocks: Sequence[str], score: str
) -> list[Path]:
    """Writes `<name>-layers.csv`, zeros of each layer and the gain of its block, and, where matplotlib is installed,
    `<name>.svg`, three panels as in the paper."""
    gained = gains(results.by_row(runs), blocks, score)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("layer", "block", "zeros", f"mean gain in {score}"))
    for layer, zeros in zero_shares(runs).items():
        block = block_of(layer)
        writer.writerow((layer, block, zeros, gained.get(block)))  # the stem is always masked: no gain
    file = output / f"{name}-layers.csv"
    write_atomically(file, text.getvalue().encode())
    return [
        file,
        *results.draw(output / f"{name}.svg", (7, 11), lambda figure: _fill(figure, runs, blocks, score)),
    ]


def _fill(figure: Any, runs: dict[str, dict[str, Any]], blocks: Sequence[str], score: str) -> None:
    lines = results.by_row(runs)
    scatter, zeros, bars = figure.subplots(3, 1)
    masked = [line["row"].count("1") for line in lines]
    dots = scatter.scatter(
        [line[_OPERATIONS] for line in lines], [line[score] for line in lines], c=masked, cmap="viridis"
    )
    figure.colorbar(dots, ax=scatter, label="blocks masked")
    scatter.set_xlabel(f"{_OPERATIONS}, as in the paper")
    scatter.set_ylabel(score)
    scatter.set_title("a  configurations", loc="left")
    for axes, values, title, label, colour in (
        (zeros, zero_shares(runs), "b  zeros in the weights of masked layers", "share", _ORANGE),
        (
            bars,
            gains(lines, blocks, score),
            "c  mean gain of masking a block, cheapest first",
            score,
            _BLUE,
        ),
    ):
        axes.bar(list(values), list(values.values()), color=colour)
        axes.axhline(0, color=_GREY, linewidth=1)
        axes.tick_params(axis="x", rotation=90)
        axes.set_ylabel(label)
        axes.set_title(title, loc="left")
