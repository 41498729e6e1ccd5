"""A front as table, CSV, JSON and plot: quality against time on every instruction set, and against bytes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from . import results
from .front import Point, different, lightest, on_front

# Okabe and Ito's palette.
_COLOURS = {"float": "#BBBBBB", "bfloat16": "#E69F00", "int8": "#CC79A7", "packed": "#0072B2"}
_FRONTS = ("front, ms", "front, MB")


def table(title: str, points: Sequence[Point], score: str) -> Table:
    """Every point, by instruction set and time; marked where nothing beats it in time, or in bytes, and score."""
    shown = Table(title=title, title_justify="left", caption_justify="left", caption=(
        "bfloat16 and int8 are given the float network's score, the best that they could reach."
    ))  # fmt: skip
    for heading in ("held to", "row", "runtime"):
        shown.add_column(heading)
    for heading in ("ms", "MB", score, "seeds", *_FRONTS):
        shown.add_column(heading, justify="right")
    marks = _marks(points)
    for point in sorted(points, key=lambda p: (p.isa, p.ms)):
        spread = "" if point.spread is None else f" ± {point.spread:.3f}"
        shown.add_row(
            point.isa, point.row, point.runtime, f"{point.ms:.1f}", f"{point.megabytes:.2f}",
            f"{point.score:.3f}{spread}", str(point.seeds), *("*" * mark for mark in marks[point].values()),
            style="bold" if point.precision == "packed" else None,
        )  # fmt: skip
    return shown


def write(output: Path, name: str, facts: dict[str, Any], points: Sequence[Point], score: str) -> list[Path]:
    """Writes `<name>.json`, `<name>.csv` and, where matplotlib is installed, `<name>.svg`."""
    runs, lines = {}, []
    for p, marks in _marks(points).items():
        runs[f"{p.row}; {p.runtime}; {p.isa}"] = {**asdict(p), **marks}
        known = {
            "row": p.row,
            "runtime": p.runtime,
            "isa": p.isa,
            "seeds": p.seeds,
            "ms": p.ms,
            "MB": p.megabytes,
        }
        lines.append({**known, score: p.score, f"{score} ±": p.spread, **marks})
    files = results.write(output, name, facts, runs, lines)
    return [*files, *draw(output / f"{name}.svg", points, score)]


def _marks(points: Sequence[Point]) -> dict[Point, dict[str, int]]:
    """1 for each point on the front by time, and by bytes; else 0."""
    fast = on_front(points)
    light = {(point.row, point.precision) for point in lightest(points)}
    return {
        point: dict(
            zip(_FRONTS, (int(point in fast), int((point.row, point.precision) in light)), strict=True)
        )
        for point in points
    }


def read(file: Path) -> tuple[list[Point], str]:
    """The points of a CSV that `write` wrote, and the name of their score."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    score = next(column.removesuffix(" ±") for column in rows[0] if column.endswith(" ±"))
    points = [
        Point(
            row["row"], row["runtime"], row["isa"], float(row["ms"]), float(row["MB"]), float(row[score]),
            float(row[f"{score} ±"]) if row[f"{score} ±"] else None, int(row["seeds"]),
        )
        for row in rows
    ]  # fmt: skip
    return points, score


def draw(file: Path, points: Sequence[Point], score: str) -> list[Path]:
    """An SVG with a panel for each instruction set and one for bytes: one-bit networks and all on the front are named,
    the front is a line. Nothing where matplotlib is not installed."""
    isas = list(dict.fromkeys(point.isa for point in points))
    front = on_front(points)

    def fill(figure: Any) -> None:
        *timed, weighed = figure.subplots(len(isas) + 1)
        for axes, isa in zip(timed, isas, strict=True):
            mine = [point for point in points if point.isa == isa]
            _panel(axes, mine, [point for point in front if point.isa == isa], "ms")
            axes.set_xlabel("ms for one image")
            axes.set_title(isa, loc="left")
        _panel(weighed, different(points), lightest(points), "megabytes")
        weighed.set_xlabel("MB of weights")
        weighed.set_title("bytes", loc="left")
        for axes in (*timed, weighed):
            axes.set_xscale("log")
            axes.set_ylabel(score)
            axes.legend(loc="lower right")

    return results.draw(file, (7, 4.5 * (len(isas) + 1)), fill)


def _panel(axes: Any, points: Sequence[Point], front: Sequence[Point], cost: str) -> None:
    across = [getattr(point, cost) for point in front]
    axes.step(across, [p.score for p in front], where="post", color="#444444", linewidth=1)
    for precision, colour in _COLOURS.items():
        those = [point for point in points if point.precision == precision]
        axes.errorbar(
            [getattr(p, cost) for p in those], [p.score for p in those], yerr=[p.spread or 0 for p in those],
            fmt="o", color=colour, label=precision,
        )  # fmt: skip
    for point in points:
        if point in front or point.precision == "packed":
            axes.annotate(
                point.row,
                (getattr(point, cost), point.score),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
            )
