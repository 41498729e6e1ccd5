"""Quality against measured time: float networks of several widths in every runtime there is here, and one-bit ones.

Time does not depend on what a network has learned: it is that of a fresh one of the same shape, timed by `mbu bench`.
Networks in bfloat16 and int8 are given the score of the float network, the best that they could reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.console import Console

from ..bench.child import Job, JobFailed, run_job
from ..bench.kept import KeptJobs
from ..bench.suite import run_jobs
from ..comparison import Comparison
from ..report_pareto import front_of
from .modelled import PROCESSORS, modelled_ms
from .training import Experiment

ROWS = (
    "float", "float + shortcuts", "float + width 8", "float + shortcuts + width 8", "float + width 4",
    "float + shortcuts + width 4", "bfloat16 shortcuts",
    "bfloat16 shortcuts + thermometer of 2", "int8 shortcuts + thermometer of 2", "plain + thermometer of 2",
)  # fmt: skip
# Bytes of a weight, by the first word of a candidate's name.
_WIDTHS = {"float": 4, "bfloat16": 2, "int8": 1}
# Networks of `mbu bench` with shortcuts, by the type that their stream is stored in.
_STREAMS = {"bfloat16": "mbunet-shortcuts", "int8": "mbunet-int8-stream"}
# Options of `MBUQuantize` that `Job` knows; those that change what is timed, and that a fresh network does not show.
_TIMED = ("planes", "mask_blocks", "block_density")
_OTHER_SHAPES = {"shortcuts", "shift", "block_shares", "linear"}


@dataclass(frozen=True)
class Point:
    """A network in a runtime.

    Attributes:
        row: of the study.
        runtime: as `mbu bench` names it.
        isa: what every candidate was held to, `"native"` for this processor; or a processor that is not here.
        ms: median for one image; modelled for a processor that is not here.
        megabytes: of its weights.
        score, spread: mean and sample deviation over the seeds; `spread` is None for a single one.
        seeds: how many there were.
    """

    row: str
    runtime: str
    isa: str
    ms: float
    megabytes: float
    score: float
    spread: float | None
    seeds: int

    @property
    def precision(self) -> str:
        """`"float"`, `"bfloat16"`, `"int8"` or `"packed"`."""
        return self.runtime.partition(" ")[0]


def job_of(experiment: Experiment, classes: int, size: str, isa: str, threads: int) -> Job:
    """The comparison in which the row's network is timed.

    Raises:
        ValueError: `mbu bench` cannot build that network.
    """
    other = sorted(_OTHER_SHAPES.intersection(experiment.options))
    if other:
        raise ValueError(
            f"a network with {', '.join(other)} cannot be timed here; leave its row out of --only, or run it as a "
            "row of `mbu study ingredients`."
        )
    is_float = experiment.layers == "float"
    model = "mbunet"
    if experiment.shortcuts:
        model = "mbunet-shortcuts" if is_float else _STREAMS.get(experiment.stream_dtype, "")
    if not model:
        raise ValueError(
            f"a one-bit network with a stream in {experiment.stream_dtype} cannot be timed here; take a row with "
            f"{' or '.join(f'{dtype} shortcuts' for dtype in _STREAMS)}."
        )
    return Job(
        "compare",
        model,
        {"width": experiment.width, "classes": classes},
        size=size,
        isa=isa,
        threads=threads,
        rivals=is_float,
        **{}
        if is_float
        else {name: experiment.options[name] for name in _TIMED if name in experiment.options},
    )


def measure(
    rows: dict[str, Experiment], lines: Sequence[dict[str, Any]], score: str, classes: int, size: str,
    isas: Iterable[str], threads: int, console: Console, kept: KeptJobs | None = None,
) -> list[Point]:  # fmt: skip
    """Times each network once on every instruction set, and models the time on processors that are not here.

    Args:
        rows: name -> what was trained.
        lines: of `results.by_row`.
        score: key of the score in these.
        classes, size: of the logits; of the image, as `"352x480"`.
        kept: jobs of earlier calls, which are not measured again; None keeps nothing.
    """
    jobs = {(name, isa): job_of(rows[name], classes, size, isa, threads) for name in rows for isa in isas}
    distinct: list[Job] = []
    for job in jobs.values():
        if job not in distinct:
            distinct.append(job)
    dates = [date for job in distinct if kept is not None and (date := kept.date(job)) is not None]
    if kept is not None and dates:
        console.print(
            f"{len(dates)} of {len(distinct)} networks were timed before, {min(dates)} to {max(dates)} ({kept.file})",
            highlight=False,
        )
    timed = run_jobs(distinct, console, _run if kept is None else partial(kept.run, _run))
    by_name = {line["row"]: line for line in lines}
    points = []
    for (name, isa), job in jobs.items():
        entry = timed["compare"][distinct.index(job)]
        if "result" not in entry:
            console.print(f"{name}, {isa}: not timed: {entry['failed']}", highlight=False)
            continue
        comparison = Comparison.from_dict(entry["result"])
        for rival, reason in comparison.not_run.items():
            console.print(f"{name}, {isa}: {rival} not run: {reason}", highlight=False)
        line = by_name[name]
        for runtime in _runtimes(comparison, job.rivals):
            share = _WIDTHS.get(runtime.partition(" ")[0], 0) / _WIDTHS["float"]
            size_b = comparison.float_bytes * share if job.rivals else comparison.packed_bytes
            points.append(
                Point(
                    name, runtime, isa, comparison.timings[runtime].median, size_b / 1e6,
                    line[score], line[f"{score} ±"], line["seeds"],
                )
            )  # fmt: skip
    return points + _modelled(points, {name: job for (name, _), job in jobs.items()})


def _modelled(points: Sequence[Point], jobs: dict[str, Job]) -> list[Point]:
    """Each network in each precision on every processor of `modelled.PROCESSORS`."""
    distinct = {(point.row, point.precision): point for point in points}
    found = []
    for processor in PROCESSORS:
        for (row, precision), point in distinct.items():
            ms = modelled_ms(jobs[row], precision, processor)
            if ms is not None:
                found.append(replace(point, runtime=f"{precision} modelled", isa=processor.name, ms=ms))
    return found


def _run(job: Job, *told: Any) -> dict[str, Any]:
    """As `run_job`; candidates that disagree cost their own row alone."""
    try:
        return run_job(job, *told)
    except ValueError as refused:
        raise JobFailed(str(refused)) from refused


def _runtimes(comparison: Comparison, is_float: bool) -> list[str]:
    """Of a float network, the fastest candidate of each precision."""
    if not is_float:
        return [comparison.best_packed]
    return [name for kind in _WIDTHS if (name := comparison.fastest(kind)) is not None]


def on_front(points: Sequence[Point]) -> list[Point]:
    """Those that no other point of the same instruction set beats in time and score, fastest first."""
    isas = dict.fromkeys(point.isa for point in points)
    return [point for isa in isas for point in front_of([p for p in points if p.isa == isa])]


def different(points: Sequence[Point]) -> list[Point]:
    """One point for each network and precision: what is left where time does not matter."""
    found: dict[tuple[str, str], Point] = {}
    for point in points:
        found.setdefault((point.row, point.precision), point)
    return list(found.values())


def lightest(points: Sequence[Point]) -> list[Point]:
    """Those of `different` that no other beats in bytes and score, lightest first."""
    return front_of(different(points), lambda point: point.megabytes)
