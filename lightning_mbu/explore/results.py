"""What a study found, as table, CSV, JSON and plot."""

# The extra `bench` installs matplotlib.
# pyright: reportMissingImports=false

from __future__ import annotations

import csv
import io
import json
import statistics
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from ..atomic import write_atomically
from ..bench.rivals import require

_FLOAT = ("float", "full precision")  # how the names of rows without one-bit layers begin


def by_row(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of one row under several seeds (`name #seed`) become one line: mean and spread of every score.

    Returns:
        Lines with `row`, `seeds` and, for each number that the runs hold, its mean under its own name and its
        sample deviation under `name ±` (None for a single seed).
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, result in results.items():
        groups.setdefault(name.partition(" #")[0], []).append(result)
    lines = []
    for name, group in groups.items():
        line: dict[str, Any] = {"row": name, "seeds": len(group)}
        for key, first in group[0].items():
            # A run of an earlier version may lack a score.
            if isinstance(first, int | float) and all(key in result for result in group):
                values = [float(result[key]) for result in group]
                line[key] = statistics.fmean(values)
                line[f"{key} ±"] = statistics.stdev(values) if len(values) > 1 else None
        lines.append(line)
    return lines


def as_table(title: str, lines: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    """A table of the columns that there are, three digits, spread behind the mean."""
    table = Table(title=title, title_justify="left")
    table.add_column("row")
    shown = [column for column in columns if any(column in line for line in lines)]
    for column in ("seeds", *shown):
        table.add_column(column, justify="right")
    for line in lines:
        cells = []
        for column in shown:
            spread = line.get(f"{column} ±")
            cells.append(
                ""
                if column not in line
                else f"{line[column]:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
            )
        table.add_row(line["row"], str(line["seeds"]), *cells)
    return table


def write(
    output: Path,
    name: str,
    conditions: dict[str, Any],
    results: dict[str, dict[str, Any]],
    lines: list[dict[str, Any]] | None = None,
) -> list[Path]:
    """Writes `<name>.json` (conditions and every run) and `<name>.csv` (`lines`, by default one a row), whole or not at
    all."""
    lines = by_row(results) if lines is None else lines
    text = io.StringIO()
    columns = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    content = json.dumps({"study": name, "conditions": conditions, "runs": results}, indent=1)
    files = [output / f"{name}.json", output / f"{name}.csv"]
    for file, body in zip(files, (content, text.getvalue()), strict=True):
        write_atomically(file, body.encode())
    return files


def read(file: Path, score: str) -> list[dict[str, Any]]:
    """`row`, `seeds`, a score and its spread, of the CSV of `by_row` that `write` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no such columns, or numbers that are none.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}.")
    spread = f"{score} ±"
    try:
        return [
            {
                "row": line["row"],
                "seeds": int(line["seeds"]),
                score: float(line[score]),
                spread: float(line[spread]) if line[spread] else None,
            }
            for line in csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{file} is no table of a study with the columns row, seeds, {score} and {spread}: {error!r}."
        ) from error


def draw(file: Path, size: tuple[float, float], fill: Callable[[Any], None]) -> list[Path]:
    """Writes the SVG that `fill` draws on a figure of so many inches; nothing where matplotlib is not installed."""
    try:
        require("matplotlib")
    except ImportError:
        return []
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mbu", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        fill(figure)
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return [write_atomically(file, picture.getvalue())]


def plot(output: Path, name: str, lines: list[dict[str, Any]], x: str, y: str) -> list[Path]:
    """`<name>.svg`: one point a row, labelled; nothing where no line has both numbers."""
    points = [line for line in lines if x in line and y in line]

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for line in points:
            colour = "#BBBBBB" if line["row"].startswith(_FLOAT) else "#0072B2"
            axes.errorbar(line[x], line[y], yerr=line.get(f"{y} ±"), fmt="o", color=colour)
            axes.annotate(
                line["row"], (line[x], line[y]), xytext=(4, 4), textcoords="offset points", fontsize=7
            )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if all(line[x] > 0 for line in points):
            axes.set_xscale("log")

    return draw(output / f"{name}.svg", (7, 4.5), fill) if points else []


def plot_rows(output: Path, name: str, lines: list[dict[str, Any]], score: str) -> list[Path]:
    """`<name>.svg`: a line for each row that has the score, from the top, its mean as a dot and its spread as a bar;
    nothing where no row has it."""
    shown = [line for line in lines if score in line]

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for place, line in enumerate(shown):
            colour = "#BBBBBB" if line["row"].startswith(_FLOAT) else "#0072B2"
            axes.errorbar(line[score], place, xerr=line.get(f"{score} ±"), fmt="o", color=colour, capsize=2)
        axes.set_yticks(range(len(shown)), [textwrap.fill(line["row"], 50) for line in shown], fontsize=7)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(axis="x", color="#DDDDDD")
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{score}, ± sample deviation")

    return draw(output / f"{name}.svg", (8, 1 + 0.3 * len(shown)), fill) if shown else []
