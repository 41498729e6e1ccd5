"""The studies behind `mbu study`: which rows they run, and what they show of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..models import MBUNet
from ..timing import conditions
from . import bits, figure3, front, front_show, results
from .data import DataSet, read_data
from .measure import primary, row
from .plans import ranked_blocks
from .rows import bit_widths, chosen_blocks, ingredients, pareto, repeat, table1
from .search import search_budget
from .store import finished, open_study, run_rows
from .training import Experiment
from .workers import cores, run_side_by_side

STUDIES = ("table1", "ingredients", "figure3", "bits", "pareto", "front", "budget")
TIMED = ("pareto", "budget")  # of these, those that time every network that they train


@dataclass(frozen=True)
class StudySettings:
    """Options of `mbu study`.

    Attributes:
        name: one of `STUDIES`.
        data: folder of nuclei, CamVid or ISBI 2012.
        output: folder for the database, tables and plots.
        storage: SQLAlchemy URL that several machines share; None keeps the record in `output`.
        quick: 64 pixels, 8 epochs, as many processes as cores: the ordering in minutes, not the accuracy.
        size: height of the images, pixels; by default 128, or 64 with `quick`.
        epochs: of every network; by default 12, or 8 with `quick`.
        width: channels of the first level.
        lr: peak learning rate of every network whose row names none; by default that of `Experiment`, and 1e-4 for a quick
            `table1`, at which the rows come in the order of the paper.
        shortcuts: real-valued shortcuts in every network, the float one too.
        seeds: runs of each row; by default 1, for a quick `table1` 3.
        processes: networks that train at the same time; by default 1. `pareto` and `budget` time theirs, one at a time.
        only: rows of `ingredients` and `front` to run, all if empty.
        permutations, depth: of `figure3`, see `shapley.chains`.
        w_op: weights of the operations in the cost score of `pareto`, each another order of masking; that of the parameters
            is the rest.
        threads: processor threads for the timing of `pareto`, `front` and `budget`.
        at: height and width of the image that `front` times; by default that of the training images.
        isa: instruction sets that `front` holds every candidate to, one after the other (`bench.isa.ISAS`).
        trials: networks that `budget` and `bits` try.
        max_dice_drop, max_latency_ms: of `budget`; give one.
    """

    name: str
    data: str
    output: str = "mbu-study"
    storage: str | None = None
    quick: bool = False
    size: int | None = None
    epochs: int | None = None
    width: int = 16
    lr: float | None = None
    shortcuts: bool = False
    seeds: int | None = None
    processes: int | None = None
    only: tuple[str, ...] = ()
    permutations: int = 6
    depth: int = 4
    w_op: tuple[float, ...] = (0.5,)
    threads: int = 1
    at: tuple[int, int] | None = None
    isa: tuple[str, ...] = ("native",)
    trials: int = 20
    max_dice_drop: float | None = None
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        if self.name not in STUDIES:
            raise ValueError(f"study {self.name!r} is unknown; choose one of {', '.join(STUDIES)}.")
        for name in ("seeds", "processes", "permutations", "depth", "threads", "trials"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.name in TIMED and (self.processes or 1) > 1:
            raise ValueError(
                f"processes={self.processes}: {self.name} times its networks, one at a time; leave --processes out."
            )
        if self.lr is not None and not 0 < self.lr < 1:
            raise ValueError(f"lr={self.lr} must lie between 0 and 1, as 1e-3.")
        if self.name == "budget" and (self.max_dice_drop is None) == (self.max_latency_ms is None):
            raise ValueError(
                "budget needs either --max-dice-drop or --max-latency-ms, and one of them alone."
            )

    @property
    def pixels(self) -> int:
        return self.size if self.size is not None else (64 if self.quick else 128)

    @property
    def rate(self) -> float | None:
        """Peak learning rate of rows that name none; None leaves it to `Experiment`."""
        return 1e-4 if self.lr is None and self._for_order else self.lr

    @property
    def runs(self) -> int:
        """Of each row."""
        return self.seeds or (3 if self._for_order else 1)

    @property
    def side_by_side(self) -> int:
        """Networks that train at the same time."""
        return self.processes or (cores() if self.quick and self.name not in TIMED else 1)

    @property
    def _for_order(self) -> bool:
        # The order of the paper comes at a low rate, as a mean of seeds: docs/results/accuracy.md.
        return self.quick and self.name == "table1"

    @property
    def base(self) -> Experiment:
        """What every row starts from."""
        epochs = self.epochs if self.epochs is not None else (8 if self.quick else 12)
        return Experiment(width=self.width, shortcuts=self.shortcuts, epochs=epochs, lr=self.rate)


def run_study(settings: StudySettings, console: Console) -> dict[str, dict[str, Any]]:
    """Runs what is missing of a study, shows and writes its results; returns every run.

    Raises:
        ValueError, FileNotFoundError: settings or data that cannot work.
        KeyboardInterrupt: stopped; finished rows are kept and the next call goes on from there.
    """
    data = read_data(settings.data, settings.pixels)
    console.print(f"{data}", highlight=False)
    experiments, timed = _rows(settings, data)
    if settings.name not in ("ingredients", "front") and len(settings.only):
        raise ValueError("--only chooses rows of `ingredients` and `front`; other studies run all of theirs.")
    output = Path(settings.output)
    # The name holds what makes results comparable: a study with other settings is another study.
    record = "ingredients" if settings.name == "front" else settings.name  # what one has trained serves both
    name = f"{record}-{data.name}-{settings.pixels}px-w{settings.width}-e{settings.base.epochs}"
    name += f"-lr{settings.rate:g}" if settings.rate is not None else ""
    name += "-shortcuts" if settings.shortcuts else ""
    study = open_study(name, output, settings.storage, direction="maximize")
    rows = {
        key: row(experiment, data, timed=timed, threads=settings.threads, compiled=not settings.quick)
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
        _time_front(settings, data, name, experiments, found, console)
    return found


def _time_front(
    settings: StudySettings, data: DataSet, name: str, rows: dict[str, Experiment],
    found: dict[str, dict[str, Any]], console: Console,
) -> None:  # fmt: skip
    height, width = settings.at or data.splits["train"].images.shape[1:3]
    score = f"test/{primary(data)}"
    lines = results.by_row(found)
    points = front.measure(
        rows, lines, score, len(data.classes), f"{height}x{width}", settings.isa, settings.threads, console
    )
    name = f"{name.replace('ingredients', 'front', 1)}-at-{height}x{width}"
    console.print(front_show.table(name, points, score))
    files = front_show.write(Path(settings.output), name, _facts(settings), points, score)
    console.print(f"written: {', '.join(str(file) for file in files)}", highlight=False)


def _blocks(settings: StudySettings, data: DataSet, w_op: float = 0.5) -> tuple[str, ...]:
    model = MBUNet(classes=len(data.classes), width=settings.width, shortcuts=settings.shortcuts)
    example = torch.empty(1, 3, settings.pixels, data.splits["train"].images.shape[2])
    return ranked_blocks(model, example, w_op, 1 - w_op)


def _rows(settings: StudySettings, data: DataSet) -> tuple[dict[str, Experiment], bool]:
    """Rows, and whether they are timed."""
    base = settings.base
    if settings.name == "table1":
        return table1(base), False
    if settings.name == "ingredients":
        return ingredients(base, settings.only), False
    if settings.name == "front":
        return ingredients(base, settings.only or front.ROWS), False
    blocks = _blocks(settings, data)
    if settings.name == "figure3":
        return chosen_blocks(base, blocks, settings.permutations, settings.depth), False
    if settings.name == "bits":
        return bit_widths(base, blocks, settings.trials), False
    if settings.name == "pareto":
        counts = (0, 4, 8, 12) if settings.quick else tuple(range(len(blocks) + 1))
        orders = {w_op: _blocks(settings, data, w_op) for w_op in settings.w_op}
        return pareto(base, orders, tuple(count for count in counts if count <= len(blocks))), True
    return {"float": replace(base, layers="float")}, True


def _facts(settings: StudySettings) -> dict[str, Any]:
    """What the results depend on besides code and data."""
    facts = {**conditions(torch.device("cpu"), settings.threads), **asdict(settings)}
    facts |= {"lr": settings.rate, "seeds": settings.runs, "processes": settings.side_by_side}
    return {key: value for key, value in facts.items() if key not in ("data", "output", "storage")}


def _show(
    settings: StudySettings, data: DataSet, name: str, found: dict[str, dict[str, Any]], console: Console
) -> None:
    score = primary(data)
    lines = results.by_row(found)
    columns = (
        f"val/{score}",
        "test/dice",
        "test/iou",
        "test/f1",
        "test/boundary_f1",
        "quantized GMAC",
        "ms",
        "minutes",
    )
    title = (
        f"{name}: peak rate {settings.base.peak:g}, seeds {settings.runs}"
        if settings.name == "table1"
        else name
    )
    console.print(results.as_table(title, lines, columns))
    output = Path(settings.output)
    files = results.write(output, name, _facts(settings), found)
    axes = {"pareto": "ms", "budget": "ms"}
    if settings.name in axes:
        files += results.plot(output, name, lines, axes[settings.name], f"test/{score}")
    if settings.name == "figure3":
        blocks = _blocks(settings, data)
        console.print(figure3.table(figure3.gains(lines, blocks, f"test/{score}"), score))
        files += figure3.write(output, name, found, blocks, f"test/{score}")
    if settings.name == "bits":
        found_scores = bits.scores(lines, _blocks(settings, data), f"test/{score}")
        console.print(bits.table(found_scores, f"test/{score}"))
        files += bits.write(output, name, found_scores, f"test/{score}")
    console.print(f"written: {', '.join(str(file) for file in files)}", highlight=False)
