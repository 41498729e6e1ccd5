"""The options of `mbu study` and `mbu sweep`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from ..bench.isa import ISAS
from ..commands.options import image_size

STUDY = (
    "Run one of the studies of MBU-Net, or ours, on a folder of data: table1 (weight bits), ingredients (training), "
    "figure3 (which blocks are masked), bits (how many bits for each block), pareto (quality against latency, block by "
    "block), front (against float networks of several widths in every runtime), budget (search under a limit). "
    "Finished networks are kept: a study that was stopped goes on, and several processes can share one."
)
SWEEP = (
    "Search settings of training with Optuna, by validation score. Several processes can share one search."
)


def add_study_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", help="table1, ingredients, figure3, bits, pareto, front or budget")
    _add_common(parser, "mbu-study")
    add(
        "--quick",
        action="store_true",
        help="64 pixels, 8 epochs, as many processes as cores: the ordering in minutes, not the accuracy; table1 at rate 1e-4 "
        "with 3 seeds, pareto and budget timed eagerly instead of compiled",
    )
    add(
        "--lr",
        type=float,
        help="peak learning rate; 3e-3 with shortcuts and 5e-3 without if not given, 1e-4 for table1 --quick",
    )
    add("--seeds", type=int, help="runs of each row; 1 if not given, 3 for table1 --quick")
    add(
        "--processes",
        type=int,
        metavar="N",
        help="networks to train at the same time; 1 if not given, with --quick as many as cores; pareto and budget time "
        "theirs, one at a time",
    )
    add(
        "--only",
        nargs="+",
        default=(),
        metavar="ROW",
        help="rows of `ingredients` and `front`, as 'shortcuts + RPReLU'",
    )
    add("--permutations", type=int, default=6, help="figure3: orders of masking to draw")
    add("--depth", type=int, default=4, help="figure3: blocks masked in each")
    add("--all", action="store_true", help="figure3: all 2^12 choices of blocks instead of a sample")
    add(
        "--w-op",
        type=float,
        nargs="+",
        default=[0.5],
        metavar="W",
        help="pareto: weights of operations in the cost score (Eq. 2), each another order of masking",
    )
    add("--threads", type=int, default=1, help="pareto, front, budget: processor threads for timing")
    add(
        "--at",
        type=image_size,
        metavar="SIZE",
        help="front: image to time, as 352x480; that of training without",
    )
    add(
        "--scores",
        metavar="CSV",
        help="front: take scores from this table of `ingredients` instead of training; times are kept in the folder",
    )
    add(
        "--isa",
        nargs="+",
        choices=ISAS,
        default=["native"],
        help="front: instruction sets to hold everything to",
    )
    add("--trials", type=int, default=20, help="bits, budget: networks to try")
    add("--max-dice-drop", type=float, help="budget: find the fastest network that loses at most this")
    add("--max-latency-ms", type=float, help="budget: find the best network that takes at most this")


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    _add_common(parser, "mbu-sweep")
    parser.add_argument(
        "--set", nargs="+", required=True, metavar="NAME=SPEC",
        help="lr=1e-3:1e-2:log, float_share=0:0.5, estimator=clipped,annealed",
    )  # fmt: skip
    parser.add_argument("--trials", type=int, default=20, help="networks to train")


def _add_common(parser: argparse.ArgumentParser, output: str) -> None:
    add = parser.add_argument
    add("--data", required=True, help="folder of nuclei, CamVid or ISBI 2012")
    add("-o", "--output", default=output, help="folder for the record, tables and plots")
    add("--storage", help="SQLAlchemy URL that several machines share, instead of a file in the folder")
    add("--size", type=int, help="height of the images, pixels; 128 if not given")
    add("--epochs", type=int, help="of every network; 12 if not given")
    add("--width", type=int, default=16, help="channels of the first level")
    add("--shortcuts", action="store_true", help="real-valued shortcuts in every network")
    add("--json", action="store_true", help="print every run as JSON")


def _optuna() -> None:
    import importlib.util

    if importlib.util.find_spec("optuna") is None:
        raise ImportError("optuna is not installed; pip install 'lightning-mbu[explore]' brings it")
    from ..runs import quiet_lightning

    quiet_lightning()


def study(options: argparse.Namespace, console: Console) -> int:
    _optuna()
    from dataclasses import fields

    from .settings import StudySettings
    from .study import run_study

    chosen: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(StudySettings)}
    lists = {name: tuple(getattr(options, name)) for name in ("only", "isa", "w_op")}
    try:
        found = run_study(StudySettings(**{**chosen, **lists}), console)
    except KeyboardInterrupt:
        console.print(
            f"Stopped. Finished networks are kept in {options.output}; the same command goes on from there."
        )
        return 130
    if options.json:
        print(json.dumps(found))
    return 0


def sweep(options: argparse.Namespace, console: Console) -> int:
    _optuna()
    from . import results
    from .data import read_data
    from .measure import primary
    from .search import parse_choice, search_settings, sweep_name
    from .store import open_study
    from .training import Experiment

    choices = dict(parse_choice(text) for text in options.set)
    size = options.size or 128
    data = read_data(options.data, size)
    base = Experiment(width=options.width, shortcuts=options.shortcuts, epochs=options.epochs or 12)
    name = sweep_name(base, data, size, choices)
    record = open_study(name, Path(options.output), options.storage, direction="maximize")
    found = search_settings(base, data, record, choices, options.trials, console)
    best = dict(sorted(found.items(), key=lambda item: -item[1]["value"]))
    lines = results.by_row(best)
    console.print(results.as_table(name, lines, ("value", "test/dice", "test/iou", "minutes")))
    files = results.write(Path(options.output), name, {"choices": choices}, found)
    files += results.plot_rows(Path(options.output), name, lines, f"val/{primary(data)}")
    console.print(f"written: {', '.join(str(file) for file in files)}", highlight=False)
    if options.json:
        print(json.dumps(found))
    return 0
