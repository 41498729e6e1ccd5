"""Which jobs a benchmark consists of, and running them one after the other."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from ..config import PRESETS
from ..timing import conditions, instruction_sets
from . import memory
from .child import Job, JobFailed, run_job
from .turns import Turns

SCHEMA = 4  # of the JSON; grows with every change that a reader would notice
_PACKAGES = ("onnxruntime", "openvino", "nncf", "torchao")
KINDS = ("compare", "threads", "layers", "memory")
_CANDIDATES = (memory.PACKED, memory.FLOAT)
_LARGE = ("mbunet-shortcuts", "unet-resnet34")


def standard_jobs(base: Job) -> list[Job]:
    """What `make bench` measures: MBUNet at three sizes, with a second thread, with shortcuts and as `MBUQuantize` trains it
    by default, two other U-Nets, larger images, two networks held
    to the instruction sets of older processors, its layers and its memory.

    Args:
        base: settings that all jobs share.
    """
    first = replace(base, model="mbunet")
    newer = {"avx512": "amx_int8", "avx2": "avx512f"}  # what a processor that is held back has beyond the set
    older = [isa for isa, more in newer.items() if base.isa == "native" and more in instruction_sets()]
    return [  # two at a time: what takes long to prepare comes early, lest it runs alone in the end
        first,
        replace(first, size="512x512"),
        *memory_jobs(first, ("256x256", "1024x1024")),
        replace(first, size="64x64", rivals=False),
        replace(first, threads=2, kind="threads"),
        replace(base, model="mbunet-shortcuts", rivals=False),
        replace(base, model="mbunet-int8-stream", planes=PRESETS["default"].planes, rivals=False),
        replace(base, model="unet-classic"),
        *(replace(base, model=model, size="512x512") for model in _LARGE),
        *(replace(base, model=model, isa=isa) for isa in older for model in ("mbunet", "unet-classic")),
        layers_job(first),
    ]


def quick_jobs(base: Job) -> list[Job]:
    """Every kind of measurement once, on small images: whether it works, not how fast it is."""
    first = replace(base, model="mbunet", size="128x128", repeats=3, budget_s=3.0)
    return [
        first,
        replace(first, threads=2, kind="threads"),
        layers_job(first),
        *memory_jobs(first, ("128x128",)),
    ]


def grid_jobs(
    base: Job, models: Sequence[str], sizes: Sequence[str], threads: Sequence[int], layers: bool, memory: bool
) -> list[Job]:
    """Every model at every size with every number of threads; layers and memory with the first number only."""
    jobs = [
        replace(base, model=model, size=size, threads=count)
        for model in models
        for size in sizes
        for count in threads
    ]
    for model in models:
        first = replace(base, model=model, threads=threads[0])
        jobs += [layers_job(replace(first, size=size)) for size in sizes] if layers else []
        jobs += memory_jobs(first, sizes) if memory else []
    return jobs


def layers_job(like: Job) -> Job:
    """The layers of the model of a comparison."""
    return replace(like, kind="layers")


def memory_jobs(like: Job, sizes: Sequence[str]) -> list[Job]:
    """The memory of both candidates at each size."""
    return [
        replace(like, kind="memory", size=size, candidate=candidate)
        for size in sizes
        for candidate in _CANDIDATES
    ]


def run_jobs(
    jobs: Sequence[Job], console: Console, run: Callable[..., dict[str, Any]] = run_job
) -> dict[str, Any]:
    """Runs the jobs behind a progress bar: two prepare at a time, one measures.

    Args:
        jobs: at least one.
        console: shows the bar.
        run: `child.run_job`, or what replaces it in a test.

    Returns:
        Plain types: `schema`, `command`, `conditions`, and the lists `compare`, `threads`, `layers`, `memory`, whose
        entries hold `job`, `title` and either `result` or `failed`, the reason.

    Raises:
        ValueError: candidates disagree, or not one job gave a result.
    """
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "command": shlex.join(["mbu", *sys.argv[1:]]),
        "conditions": job_conditions(),
        **{kind: [] for kind in KINDS},
    }
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    turns = Turns()
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        total = progress.add_task("jobs", total=len(jobs))

        def entry(job: Job) -> dict[str, Any]:
            task = progress.add_task(job.title, total=1)
            if not console.is_terminal:  # no bar there, and minutes between results
                console.print(job.title, highlight=False)
            found: dict[str, Any] = {"job": asdict(job), "title": job.title}
            try:
                found["result"] = run(
                    job, lambda step: progress.update(task, description=f"{job.title}: {step}"), turns
                )
            except JobFailed as failure:
                found["failed"] = str(failure)
            progress.remove_task(task)
            progress.advance(total)
            return found

        with ThreadPoolExecutor(_side_by_side()) as pool:
            waiting = [pool.submit(entry, job) for job in jobs]
            try:
                for job, future in zip(jobs, waiting, strict=True):
                    results[job.kind].append(future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                turns.end()
                raise
    results["conditions"]["took"] = f"{(time.monotonic() - began) / 60:.1f} min"
    failures = [
        f"{entry['title']}: {entry['failed']}"
        for kind in KINDS
        for entry in results[kind]
        if "failed" in entry
    ]
    if len(failures) == len(jobs):
        raise ValueError(f"nothing could be measured. {failures[0] if failures else 'There is no job.'}")
    return results


def _side_by_side() -> int:
    """How many jobs prepare at the same time: two, for each holds a network or two per rival in memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(2, cores)


def job_conditions() -> dict[str, str]:
    """What all jobs depend on, as words and numbers that a person can read."""
    facts = conditions(torch.device("cpu"), 0)
    del facts["threads"]  # differs from job to job
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts
