"""`make soak`: every job in full, one after another, each in a process of its own; ends with 1 where one failed."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mbu_ops.backends import library_path

from .job import Job, start
from .jobs import JOBS


def _run(job: Job, count: int, seed: int, console: Console) -> list[str]:
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(job.unit), TimeElapsedColumn(),
        TimeRemainingColumn(), console=console, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task(job.name, total=count)
        return start(job, count, seed, lambda done: bar.update(task, completed=done))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak ARGS=", description=__doc__)
    parser.add_argument(
        "jobs", nargs="*", help=f"some of {', '.join(job.name for job in JOBS)}; default: all"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases of every job")
    parser.add_argument("--data", help="folder of data sets, for the job equivalence; default: MBU_DATA")
    options = parser.parse_args()
    if options.data:
        os.environ["MBU_DATA"] = options.data
    unknown = set(options.jobs) - {job.name for job in JOBS}
    if unknown:
        parser.error(f"there is no job {min(unknown)!r}")
    console, failed = Console(soft_wrap=True, highlight=False), []
    console.print(
        f"seed {options.seed}, Python {platform.python_version()}, torch {torch.__version__}, {library_path().name}"
    )
    for job in JOBS:
        if options.jobs and job.name not in options.jobs:
            continue
        began, count = time.monotonic(), max(int(job.full * options.share), 1)
        try:
            lines = _run(job, count, options.seed, console)
        except AssertionError as error:
            console.print(f"{job.name}: FAILED after {time.monotonic() - began:.0f} s\n{error}", markup=False)
            failed.append(job.name)
            continue
        console.print(f"{job.name}: {time.monotonic() - began:.0f} s")
        for line in lines:
            console.print(f"    {line}", markup=False)
    console.print(f"failed: {', '.join(failed)}" if failed else "nothing found")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
