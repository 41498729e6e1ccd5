"""Every job of `make soak`, and how much of it belongs to `make test`."""

from __future__ import annotations

from .job import Job

JOBS = (
    Job("kernels", "kernels", "results", 600, 40_000),
    Job("limits", "limits", "lists", 1, 1),
    # Each operation on one of the kernels; ARGS="large --share 4" on four of them.
    Job("large", "large", "operations", 0, 8),
    Job("threads", "threads", "calls", 200, 20_000),
    Job("fork", "fork", "processes", 2, 50),
    Job("files", "files", "mutants", 300, 20_000),
    Job("training", "training", "kills", 1, 40),
    Job("packages", "packages", "packages", 0, 100),
    # Every image of the data sets through one of four networks; ARGS="equivalence --share 4" through each.
    Job("equivalence", "equivalence", "images", 0, 800),
    # An hour: ARGS="long-run --share 12".
    Job("long-run", "long_run", "seconds", 0, 300, limit=20_000),
)
