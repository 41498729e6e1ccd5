"""`mbu study front`: which networks are timed, which points are on the front, what is written."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from lightning_mbu.bench.child import JobFailed
from lightning_mbu.comparison import Comparison
from lightning_mbu.explore import front, front_show
from lightning_mbu.explore.front import Point, job_of, lightest, measure, on_front
from lightning_mbu.explore.modelled import PROCESSORS, Processor, modelled_ms
from lightning_mbu.explore.results import by_row
from lightning_mbu.explore.rows import ingredients
from lightning_mbu.explore.training import Experiment
from lightning_mbu.timing import Timing

ROWS = ingredients(
    Experiment(), ("float", "float + width 8", "plain + thermometer of 2", "bfloat16 shortcuts")
)
RUNS = {
    f"{row} #{seed}": {"test/iou": score + seed / 100}
    for row, score in zip(ROWS, (0.5, 0.4, 0.45, 0.48), strict=True)
    for seed in (0, 1)
}


def point(row: str, ms: float, score: float, isa: str = "native", megabytes: float = 1.0) -> Point:
    return Point(row, "packed eager", isa, ms, megabytes, score, None, 1)


def test_a_job_for_each_shape_of_network() -> None:
    jobs = {name: job_of(row, 11, "96x128", "avx2", 1) for name, row in ROWS.items()}
    assert [(job.model, job.arguments["width"], job.planes, job.rivals) for job in jobs.values()] == [
        ("mbunet", 16, 1, True), ("mbunet", 8, 1, True), ("mbunet", 16, 2, False), ("mbunet-shortcuts", 16, 1, False)
    ]  # fmt: skip
    streams = ingredients(Experiment(), ("int8 shortcuts", "float + shortcuts", "shortcuts"))
    assert [job_of(row, 1, "64x64", "native", 1).model for row in list(streams.values())[:2]] == [
        "mbunet-int8-stream", "mbunet-shortcuts",
    ]  # fmt: skip
    with pytest.raises(
        ValueError, match="a stream in float32 cannot be timed here; take a row with bfloat16"
    ):
        job_of(streams["shortcuts"], 1, "64x64", "native", 1)
    assert jobs["float"].title == "mbunet, width 16, classes 11, 96x128, 1 thread, avx2"
    absent = ingredients(Experiment(), ("int8 shortcuts + half of all blocks of 32x32 absent",))
    job = job_of(next(iter(absent.values())), 1, "64x64", "native", 1)
    assert (job.mask_blocks, job.block_density) == ((32, 32), 0.5) and job.title.endswith("50% of blocks")
    assert modelled_ms(job, "packed", PROCESSORS[0]) is None
    with pytest.raises(ValueError, match="block_shares, shift cannot be timed"):
        options = {"shift": True, "mask_blocks": (16, 16), "block_shares": "ranked"}
        job_of(replace(ROWS["float"], options=options), 1, "64x64", "native", 1)


def test_candidates_that_disagree_cost_their_own_row(monkeypatch) -> None:
    def refused(job, report, turns):
        raise ValueError("differs from the eager network")

    monkeypatch.setattr(front, "run_job", refused)
    with pytest.raises(JobFailed, match="differs"):
        front._run(job_of(ROWS["float"], 1, "64x64", "native", 1), print, None)


def test_front_is_what_nothing_beats_in_both() -> None:
    points = [
        point("fast", 1, 0.3), point("as fast, better", 1, 0.4), point("slower, worse", 2, 0.35),
        point("best", 9, 0.6), point("as good, slower", 10, 0.6), point("elsewhere", 20, 0.1, "avx2"),
    ]  # fmt: skip
    assert [p.row for p in on_front(points)] == ["as fast, better", "best", "elsewhere"]


def test_front_of_bytes_knows_each_network_once() -> None:
    points = [
        point("heavy", 1, 0.5, megabytes=4.0), point("light", 9, 0.4, megabytes=0.5),
        point("light", 3, 0.4, "avx2", megabytes=0.5), point("worse", 2, 0.3, megabytes=0.6),
    ]  # fmt: skip
    assert [p.row for p in lightest(points)] == ["light", "heavy"]
    assert [marks["front, MB"] for marks in front_show._marks(points).values()] == [1, 1, 1, 0]


def test_every_network_is_timed_once_and_joined_with_its_score(monkeypatch, tmp_path) -> None:
    times = {
        "float eager": 9.0, "float compiled": 6.0, "int8 A": 5.0, "int8 B": 4.0, "packed eager": 2.0,
        "packed compiled": 1.5,
    }  # fmt: skip
    timed = []

    def run_jobs(jobs, console, run):
        entries = []
        for job in jobs:
            timed.append(job.title)
            found = {name: Timing((ms * job.planes,)) for name, ms in times.items()}
            if not job.rivals:
                found = {name: timing for name, timing in found.items() if not name.startswith("int8")}
            result = Comparison(found, {}, {}, {"bfloat16 compiled": "no instructions"}, 4_000_000, 100_000)
            entry = {"title": job.title, "job": {"rivals": job.rivals}, "result": result.to_dict()}
            if job.arguments["width"] == 8:
                entry = {
                    "title": job.title,
                    "job": {"rivals": job.rivals},
                    "failed": str(JobFailed("no memory")),
                }
            entries.append(entry)
        return {"compare": entries}

    monkeypatch.setattr(front, "run_jobs", run_jobs)
    there = Processor("modelled there", 1.0, 1, {"float": 4, "int8": 16, "packed": 64})
    monkeypatch.setattr(front, "PROCESSORS", (there,))
    said = io.StringIO()
    lines = by_row(RUNS)
    points = measure(ROWS, lines, "test/iou", 1, "96x128", ("native",), 1, Console(file=said, width=200))
    assert len(timed) == len(set(timed)) == 4
    assert "float + width 8, native: not timed: no memory" in said.getvalue()
    assert "bfloat16 compiled not run: no instructions" in said.getvalue()
    found = {(p.row, p.runtime): (p.ms, p.megabytes, round(p.score, 3)) for p in points if p.isa == "native"}
    assert found == {
        ("float", "float compiled"): (6.0, 4.0, 0.505), ("float", "int8 B"): (4.0, 1.0, 0.505),
        ("plain + thermometer of 2", "packed compiled"): (3.0, 0.1, 0.455),
        ("bfloat16 shortcuts", "packed compiled"): (1.5, 0.1, 0.485),
    }  # fmt: skip
    elsewhere = {(p.row, p.runtime): (p.ms, p.megabytes) for p in points if p.isa == there.name}
    assert elsewhere == {
        (row, f"{precision} modelled"): (modelled_ms(job_of(ROWS[row], 1, "96x128", "native", 1), precision, there), mb)
        for row, precision, mb in (
            ("float", "float", 4.0), ("float", "int8", 1.0), ("plain + thermometer of 2", "packed", 0.1),
            ("bfloat16 shortcuts", "packed", 0.1),
        )
    }  # fmt: skip
    points = [p for p in points if p.isa == "native"]
    console = Console(file=(shown := io.StringIO()), width=200)
    console.print(front_show.table("t", points, "test/iou"))
    assert shown.getvalue().count(" * ") == 4
    files = front_show.write(tmp_path, "front", {"threads": 1}, points, "test/iou")
    runs = json.loads((tmp_path / "front.json").read_text())["runs"]
    marks = [(run["seeds"], run["front, ms"], run["front, MB"]) for run in runs.values()]
    assert marks == [(2, 0, 0), (2, 1, 1), (2, 0, 0), (2, 1, 1)]
    assert front_show.read(tmp_path / "front.csv") == (points, "test/iou")
    assert all(file.stat().st_size for file in files)
