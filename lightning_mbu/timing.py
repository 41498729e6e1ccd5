"""Interleaved timing of several candidates, and the conditions that the times depend on."""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# What a reader needs to know to judge a result: the sets that decide which kernels run.
INSTRUCTION_SETS = (
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_vpopcntdq", "avx_vnni", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16",
)  # fmt: skip

TIMING = "timing"  # the step that those who report steps name before they measure


@dataclass(frozen=True)
class Timing:
    """Times of one candidate, ms per call, one per round."""

    samples: tuple[float, ...]
    calls: int = 1  # calls per round, whose mean is the sample

    @property
    def median(self) -> float:
        """Median, ms."""
        return statistics.median(self.samples)

    @property
    def min(self) -> float:
        """Fastest round, ms."""
        return min(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile, ms."""
        if len(self.samples) == 1:
            return self.samples[0], self.samples[0]
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high


def ratio(slow: Timing, fast: Timing) -> float:
    """How many times faster `fast` is: the median over rounds of the ratio within a round.

    Raises:
        ValueError: the two were not timed in the same rounds.
    """
    if len(slow.samples) != len(fast.samples):
        raise ValueError(
            f"Timings of {len(slow.samples)} and {len(fast.samples)} rounds cannot be paired. "
            "Time both in one call of time_interleaved."
        )
    return statistics.median(a / b for a, b in zip(slow.samples, fast.samples, strict=True))


def time_interleaved(
    candidates: dict[str, Callable[[], Any]],
    repeats: int = 15,
    warmup: int = 3,
    min_time_s: float = 0.005,
    budget_s: float | None = None,
    synchronise: Callable[[], Any] = lambda: None,
    after_round: Callable[[], Any] = lambda: None,
) -> dict[str, Timing]:
    """Time the candidates in turn, one after the other in every round.

    Args:
        candidates: name -> function without arguments.
        repeats: rounds, at least 1.
        warmup: calls of each before the first round (the first may compile); 0 where every candidate has run before.
        min_time_s: a round calls a short candidate as often as fills this time, so that the clock's own grain
            and the cost of reading it do not show.
        budget_s: seconds that the rounds may take: where `repeats` would take longer, fewer are run, though at
            least 3.
        synchronise: waits for work in flight, for devices that run ahead of Python.
        after_round: called after every round, for a progress bar.

    Raises:
        ValueError: no candidates, `repeats` below 1 or `warmup` below 0.
    """
    if not candidates or repeats < 1 or warmup < 0:
        raise ValueError(
            f"{len(candidates)} candidates, repeats={repeats}, warmup={warmup}: at least 1, 1 and 0 are needed."
        )

    def seconds(call: Callable[[], Any], calls: int) -> float:
        synchronise()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronise()
        return (time.perf_counter() - start) / calls

    fastest = {
        name: min(seconds(call, 1) for _ in range(max(warmup, 1))) for name, call in candidates.items()
    }
    calls = {name: max(1, round(min_time_s / max(s, 1e-9))) for name, s in fastest.items()}
    if budget_s is not None:
        round_s = sum(s * calls[name] for name, s in fastest.items())
        repeats = min(repeats, max(3, int(budget_s / round_s)))
    # Without a warm-up, and where one call fills a round, that was the first round.
    done = not warmup and max(calls.values()) == 1
    samples = {name: [1e3 * s] if done else [] for name, s in fastest.items()}
    names = list(candidates)
    for turn in range(int(done), repeats):
        # Each candidate takes each place in turn: whoever follows a heavy one finds the caches it left
        # behind.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            samples[name].append(1e3 * seconds(candidates[name], calls[name]))
        after_round()
    return {name: Timing(tuple(samples[name]), calls[name]) for name in names}


def _processor() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where the system has no such file."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def instruction_sets() -> list[str]:
    """Which of `INSTRUCTION_SETS` this processor has; empty where that is not known."""
    processor = _processor()
    flags = set((processor.get("flags") or processor.get("Features") or "").split())
    return [name for name in INSTRUCTION_SETS if name in flags]


def conditions(device: torch.device, threads: int) -> dict[str, str]:
    """What a latency depends on besides the models, as words and numbers a person can read."""
    name = _processor().get("model name") or platform.processor() or platform.machine()
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, {name}"
    return {
        "processor": name,
        "instruction sets": ", ".join(instruction_sets()) or "not known",
        "threads": str(threads),
        "torch": str(torch.__version__),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
