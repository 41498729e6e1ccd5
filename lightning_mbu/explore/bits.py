"""Figure A.3 of MBU-Net: what more bits for a block's weights bring, the other blocks drawn."""

from __future__ import annotations

import csv
import io
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ..atomic import write_atomically
from . import results

# A row's name has a letter for each block. Okabe and Ito's palette.
_LETTERS = {"binary": "b", "masked": "m", "int4": "4", "int8": "8"}
_COLOURS = {"binary": "#BBBBBB", "masked": "#0072B2", "int4": "#E69F00", "int8": "#CC79A7"}

Cell = tuple[str, str]  # block, kind


def draw_kinds(blocks: Sequence[str], networks: int, random_: random.Random) -> dict[str, dict[str, str]]:
    """Networks by name, each block -> kind; every kind falls to a block as often as any other, give or take one."""
    columns = []
    for _ in blocks:
        column = [list(_LETTERS)[k % len(_LETTERS)] for k in range(networks)]
        random_.shuffle(column)
        columns.append(column)
    drawn = zip(*columns, strict=True)
    return {
        "".join(_LETTERS[kind] for kind in kinds): dict(zip(blocks, kinds, strict=True)) for kinds in drawn
    }


def scores(lines: Sequence[dict[str, Any]], blocks: Sequence[str], score: str) -> dict[Cell, list[float]]:
    """Scores of the networks that have a kind in a block; `score` is a key of the lines."""
    kinds = {letter: kind for kind, letter in _LETTERS.items()}
    found: dict[Cell, list[float]] = {(block, kind): [] for block in blocks for kind in _LETTERS}
    for line in lines:
        for block, letter in zip(blocks, line["row"], strict=True):
            found[block, kinds[letter]].append(line[score])
    return {cell: values for cell, values in found.items() if values}


def table(found: Mapping[Cell, Sequence[float]], score: str) -> Table:
    shown = Table(title=f"{score}, mean of the networks with that kind in the block", title_justify="left")
    shown.add_column("block, cheapest first")
    for kind in _LETTERS:
        shown.add_column(kind, justify="right")
    for block in dict.fromkeys(block for block, _ in found):
        means = (f"{statistics.fmean(found[block, k]):.3f}" if (block, k) in found else "" for k in _LETTERS)
        shown.add_row(block, *means)
    return shown


def write(output: Path, name: str, found: Mapping[Cell, Sequence[float]], score: str) -> list[Path]:
    """Writes `<name>-blocks.csv` and, where matplotlib is installed, `<name>-blocks.svg`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("block", "kind", "networks", score, f"{score} ±"))
    for (block, kind), values in found.items():
        writer.writerow((block, kind, len(values), statistics.fmean(values), _spread(values)))
    file = output / f"{name}-blocks.csv"
    write_atomically(file, text.getvalue().encode())
    return [
        file,
        *results.draw(file.with_suffix(".svg"), (8, 4.5), lambda figure: _fill(figure, found, score)),
    ]


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _fill(figure: Any, found: Mapping[Cell, Sequence[float]], score: str) -> None:
    axes = figure.subplots()
    blocks = list(dict.fromkeys(block for block, _ in found))
    for k, (kind, colour) in enumerate(_COLOURS.items()):
        mine = [(place, found[block, kind]) for place, block in enumerate(blocks) if (block, kind) in found]
        axes.errorbar(
            [place + (k - 1.5) / 6 for place, _ in mine], [statistics.fmean(values) for _, values in mine],
            yerr=[_spread(values) or 0 for _, values in mine], fmt="o", color=colour, label=kind,
        )  # fmt: skip
    axes.set_xticks(range(len(blocks)), blocks, rotation=90)
    axes.set_ylabel(score)
    axes.legend(title="weights of the block")
