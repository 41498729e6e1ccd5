"""What more threads bring, on an idle machine and where another process keeps one of the cores busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..timing import ratio, time_interleaved

_BUSY = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


def measure_threads(packed: nn.Module, example: Tensor, threads: int, repeats: int) -> list[dict[str, Any]]:
    """Times one thread beside several, first as the machine is, then with its last core taken.

    Args:
        packed: result of `convert`.
        example: float32 `[N, C, H, W]`.
        threads: the larger number of threads.
        repeats: rounds of each.

    Returns:
        Plain types, one entry per state of the machine: `state`, `threads`, `one_ms`, `many_ms` (medians) and
        `speedup`, the median over rounds of one thread's time against several'.
    """
    states: list[tuple[str, int | None]] = [("idle", None)]
    if hasattr(os, "sched_getaffinity"):
        core = max(os.sched_getaffinity(0))
        states.append((f"core {core} taken by another process", core))
    results = []
    for state, core in states:
        with _taken(core), torch.no_grad():
            timings = time_interleaved(
                {str(count): lambda count=count: _run(packed, example, count) for count in (1, threads)},
                repeats,
            )
        one, many = timings["1"], timings[str(threads)]
        results.append(
            {"state": state, "threads": threads, "one_ms": one.median, "many_ms": many.median,
             "speedup": ratio(one, many)}
        )  # fmt: skip
    return results


def _run(packed: nn.Module, example: Tensor, threads: int) -> None:
    torch.set_num_threads(threads)
    packed(example)


@contextmanager
def _taken(core: int | None) -> Iterator[None]:
    """While it lasts, a process that does nothing else occupies `core`."""
    if core is None:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", _BUSY, str(core)])
    try:
        yield
    finally:
        process.kill()
        process.wait()
