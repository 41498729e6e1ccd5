"""The job `long-run`: compiled inference for a long time at sizes that change; memory, graphs and results stay as they are."""

from __future__ import annotations

import random
import resource
import time
from pathlib import Path

import torch

from lightning_mbu import convert, make_plan, prepare
from lightning_mbu.models import MBUNet

from .job import Report

SIZES = [(n, h, w) for n in (1, 2, 3) for h in (32, 48, 96, 160) for w in (32, 64, 112)]
# Rounds over all sizes before memory is measured; heaps of the allocator settle in the first ones.
SETTLING = 10
# Bytes by which the process may have grown at the end.
GROWTH = 16 * 2**20


def memory() -> int:
    """Bytes of the process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@torch.no_grad()
def run(report: Report, count: int, number: int) -> None:
    """Runs for `count` seconds after all sizes have been seen."""
    torch.manual_seed(number)
    model = MBUNet(width=8, shortcuts=True).eval()
    prepare(model, make_plan(model, torch.empty(1, 3, 64, 64)))
    packed = convert(model, torch.randn(1, 3, 64, 64))
    fast = torch.compile(packed, dynamic=True)
    inputs = [torch.randn(size[0], 3, *size[1:]) for size in SIZES]
    for x in inputs:  # a dimension of 1 is compiled apart
        fast(x)
    torch.compiler.set_stance("fail_on_recompile")
    expected = [fast(x) for x in inputs]
    for x, found in zip(inputs, expected, strict=True):
        torch.testing.assert_close(found, packed(x), rtol=1e-5, atol=1e-5)
    order, calls, most = random.Random(number), 0, 0
    for _ in range(SETTLING):
        for x in inputs:
            fast(x)
    before, began = memory(), time.monotonic()
    while (passed := time.monotonic() - began) < count:
        place = order.randrange(len(inputs))
        report.keep(f"call {calls}, size {SIZES[place]}")
        assert torch.equal(fast(inputs[place]), expected[place]), f"call {calls}: other numbers"
        calls += 1
        most = max(most, memory())
        report.progress(int(passed))
    grown = memory() - before
    assert grown < GROWTH, f"{grown} bytes more after {calls} calls"
    report.result(
        f"{calls} calls in {passed:.0f} s at {len(SIZES)} sizes, no recompilation, the same results",
        f"memory {before / 2**20:.0f} MiB at the start, {grown / 2**20:+.1f} MiB at the end, "
        f"{(most - before) / 2**20:+.1f} MiB at most",
    )
