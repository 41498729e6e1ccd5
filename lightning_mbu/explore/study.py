"""The studies behind `mbu study`: which rows they run, and what they show of them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..bench.kept import KeptJobs
from ..models import MBUNet
from ..timing import conditions
from . import bits, figure3, front, front_show, results
from .data import DataSet, read_data
from .measure import primary, row
from .plans import ranked_blocks
from .rows import all_blocks, bit_widths, chosen_blocks, ingredients, pareto, repeat, table1
from .search import search_budget
from .settings import StudySettings
from .store import finished, open_study, run_rows
from .training import Experiment
from .workers import run_side_by_side


def run_study(settings: StudySettings, console: Console) -> dict[str, dict[str, Any]]:
    """Runs what is missing of a study, shows and writes its results; returns every run.

    Raises:
        ValueError, FileNotFoundError: settings or data that cannot work.
        KeyboardInterrupt: stopped; finished rows are kept and the next call goes on from there.
    """
    data = read_data(settings.data, settings.pixels)
    console.print(f"{data}", highlight=False)
    if settings.scores is not None:
        _front_of_scores(settings, data, Path(settings.scores), console)
        return {}
    experiments = _rows(settings, data)
    if settings.name not in ("ingredients", "front") and len(settings.only):
        raise ValueError("--only chooses rows of `ingredients` and `front`; other studies run all of theirs.")
    output = Path(settings.output)
    name = settings.record(data.name)
    study = open_study(name, output, settings.storage, direction="maximize")
    compiled = settings.timed_as == "compiled"
    rows = {
        key: row(experiment, data, timed=settings.timed, threads=settings.threads, compiled=compiled)
        for key, experiment in repeat(experiments, settings.runs).items()
    }
    if settings.name == "budget":
        found = search_budget(settings, data, study, rows, console)
    else:
        processes = settings.side_by_side
        one = processes == 1
        found = run_rows(study, rows, console) if one else run_side_by_side(study, rows, console, processes)
        # Rows of earlier calls with other `only` or fewer seeds belong to the same table.
        found |= {key: value for key, value in finished(study).items() if key not in found}
    _show(settings, data, name, found, console)
    if settings.name == "front":
        _time_front(settings, data, name, experiments, results.by_row(found), console)
    return found


def _front_of_scores(settings: StudySettings, data: DataSet, file: Path, console: Console) -> None:
    """Times the rows of a table whose networks have been trained elsewhere."""
    name = settings.record(data.name)
    if file.stem != name:
        raise ValueError(
            f"--scores {file.name} is not the table of these settings, {name}.csv; give the --data, --size, --epochs, "
            "--width and --lr that its name holds."
        )
    lines = results.read(file, f"test/{primary(data)}")
    there = [line["row"] for line in lines]
    missing = [row for row in settings.only if row not in there]
    if missing:
        raise ValueError(f"{file} has no row {missing[0]!r}; it has {'; '.join(there)}.")
    chosen = settings.only or tuple(row for row in there if row in front.ROWS)
    _time_front(settings, data, name, ingredients(settings.base, chosen), lines, console)


def _time_front(
    settings: StudySettings, data: DataSet, name: str, rows: dict[str, Experiment],
    lines: list[dict[str, Any]], console: Console,
) -> None:  # fmt: skip
    height, width = settings.at or data.splits["train"].images.shape[1:3]
    score = f"test/{primary(data)}"
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    points = front.measure(
        rows, lines, score, len(data.classes), f"{height}x{width}", settings.isa, settings.threads, console,
        KeptJobs(output / "front-timings.json"),
    )  # fmt: skip
    name = f"{name.replace('ingredients', 'front', 1)}-at-{height}x{width}"
    console.print(front_show.table(name, points, score))
    files = front_show.write(output, name, _facts(settings), points, score)
    console.print(f"written: {', '.join(str(file) for file in files)}", highlight=False)


def _blocks(settings: StudySettings, data: DataSet, w_op: float = 0.5) -> tuple[str, ...]:
    model = MBUNet(classes=len(data.classes), width=settings.width, shortcuts=settings.shortcuts)
    example = torch.empty(1, 3, settings.pixels, data.splits["train"].images.shape[2])
    return ranked_blocks(model, example, w_op, 1 - w_op)


def _rows(settings: StudySettings, data: DataSet) -> dict[str, Experiment]:
    base = settings.base
    if settings.name == "table1":
        return table1(base)
    if settings.name == "ingredients":
        return ingredients(base, settings.only)
    if settings.name == "front":
        return ingredients(base, settings.only or front.ROWS)
    blocks = _blocks(settings, data)
    if settings.name == "figure3":
        if settings.all:
            return all_blocks(base, blocks)
        return chosen_blocks(base, blocks, settings.permutations, settings.depth)
    if settings.name == "bits":
        return bit_widths(base, blocks, settings.trials)
    if settings.name == "pareto":
        counts = (0, 4, 8, 12) if settings.quick else tuple(range(len(blocks) + 1))
        orders = {w_op: _blocks(settings, data, w_op) for w_op in settings.w_op}
        return pareto(base, orders, tuple(count for count in counts if count <= len(blocks)))
    return {"float": replace(base, layers="float")}


def _facts(settings: StudySettings) -> dict[str, Any]:
    """What the results depend on besides code and data."""
    facts = {**conditions(torch.device("cpu"), settings.threads), **asdict(settings)}
    facts |= {"lr": settings.rate, "seeds": settings.runs, "processes": settings.side_by_side}
    facts |= {"timed": settings.timed_as} if settings.timed else {}
    return {key: value for key, value in facts.items() if key not in ("data", "output", "storage")}


def _show(
    settings: StudySettings, data: DataSet, name: str, found: dict[str, dict[str, Any]], console: Console
) -> None:
    score, ms = primary(data), f"ms {settings.timed_as}"
    lines = [
        {f"{ms}{key[2:]}" if key.startswith("ms") else key: value for key, value in line.items()}
        for line in results.by_row(found)
    ]
    columns = (
        f"val/{score}",
        "test/dice",
        "test/iou",
        "test/f1",
        "test/boundary_f1",
        "quantized GMAC",
        ms,
        "minutes",
    )
    title = (
        f"{name}: peak rate {settings.base.peak:g}, seeds {settings.runs}"
        if settings.name == "table1"
        else name
    )
    console.print(results.as_table(title, lines, columns))
    output = Path(settings.output)
    files = results.write(output, name, _facts(settings), found, lines)
    if settings.timed:
        files += results.plot(output, name, lines, ms, f"test/{score}")
    if settings.name in ("table1", "ingredients", "front"):
        files += results.plot_rows(output, name, lines, f"test/{score}")
    if settings.name == "figure3":
        blocks = _blocks(settings, data)
        gained = figure3.gains(lines, blocks, f"test/{score}")
        console.print(figure3.table(gained, score, len(lines)))
        files += figure3.write(output, name, found, blocks, f"test/{score}")
    if settings.name == "bits":
        found_scores = bits.scores(lines, _blocks(settings, data), f"test/{score}")
        console.print(bits.table(found_scores, f"test/{score}"))
        files += bits.write(output, name, found_scores, f"test/{score}")
    console.print(f"written: {', '.join(str(file) for file in files)}", highlight=False)
