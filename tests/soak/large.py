"""The job `large`: operands and results of more than 2^31 elements, compared strip by strip with small calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import mbu_ops.functional as F
from mbu_ops import pack_weight
from mbu_ops.backends import cpu_kernels, release_memory, use_cpu_kernel

from .job import Report

ROWS, COLUMNS, CHANNELS = 8200, 4096, 64  # 2^31 + 2^21 values
STRIP = 410  # rows
NEEDED = 14 * 2**30  # bytes


@dataclass(frozen=True)
class Case:
    """One operation on a large image.

    Attributes:
        operand: makes the image.
        call: the operation, without padding, one output row for each input row but `lost` of them.
        rows: where its rows lie in the operand and in the result.
        scale: output rows for each input row.
    """

    operand: Callable[[], Tensor]
    call: Callable[[Tensor], Tensor]
    rows: tuple[int, int]
    lost: int = 0
    scale: int = 1


def cases() -> dict[str, Case]:
    def words(count: int) -> Tensor:
        return torch.empty(1, ROWS, COLUMNS, count, dtype=torch.int32).random_(-(2**31), 2**31)

    def planes(out_channels: int, *kernel: int) -> Tensor:
        return F.tile_weight(pack_weight(torch.randint(-1, 2, (out_channels, 32, *kernel)).float()))

    few = CHANNELS // 4
    three, one, two = planes(CHANNELS, 3, 3), planes(CHANNELS, 1, 1), planes(few, 2, 2)
    affine = torch.stack([torch.rand(1, CHANNELS), torch.randn(1, CHANNELS)], 1)
    stem = F.tile_stem_weight(torch.randn(CHANNELS, 1, 3, 3))
    narrow = partial(words, 1)
    return {
        "unpack": Case(partial(words, 2), lambda x: F.unpack(x, CHANNELS), (1, 2)),
        "pack": Case(lambda: F.unpack(words(2), CHANNELS), F.pack, (2, 1)),
        "conv2d": Case(narrow, lambda x: F.conv2d(x, three, CHANNELS, 3), (1, 2), lost=2),
        "conv_transpose2d": Case(narrow, lambda x: F.conv_transpose2d(x, two, few, 2, 2), (1, 2), scale=2),
        "gemm": Case(narrow, lambda x: F.gemm(x, one, CHANNELS), (1, 1)),
        "conv2d_stream": Case(
            narrow, lambda x: F.conv2d_stream(x, three, affine, [], None, CHANNELS, 3)[0], (1, 2), lost=2
        ),
        "stem_stream": Case(
            lambda: torch.randn(1, 1, ROWS, COLUMNS),
            lambda x: F.stem_stream(x, stem, affine, None)[0],
            (2, 2),
            lost=2,
        ),
        "max_pool2d": Case(partial(words, CHANNELS), lambda x: F.max_pool2d(x, (1, 2), (1, 2)), (1, 1)),
    }


def compare(name: str, case: Case) -> None:
    x = case.operand()
    large = case.call(x)
    assert large.shape[case.rows[1]] == (ROWS - case.lost) * case.scale
    for start in range(0, ROWS - case.lost, STRIP):
        rows = min(STRIP, ROWS - case.lost - start)
        small = case.call(x.narrow(case.rows[0], start, rows + case.lost))
        found = large.narrow(case.rows[1], start * case.scale, rows * case.scale)
        assert torch.equal(found, small), f"{name}: other values in rows {start} to {start + rows}"


@torch.no_grad()
def run(report: Report, count: int, number: int) -> None:
    """`count` pairs of an operation and a kernel: every operation first, then those on the next kernel."""
    free = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024
    if free < NEEDED:
        report.result(f"not run: {free / 2**30:.1f} GiB of memory are free, {NEEDED / 2**30:.0f} are needed")
        return
    torch.manual_seed(number)
    kernels, names = [kernel.name for kernel in cpu_kernels() if kernel.available], list(cases())
    pairs = [
        (name, kernels[(k + turn) % len(kernels)])
        for turn in range(len(kernels))
        for k, name in enumerate(names)
    ]
    for done, (name, kernel) in enumerate(pairs[:count], 1):
        report.keep(f"{name}, {kernel}")
        with use_cpu_kernel(kernel):
            compare(f"{name}, {kernel}", cases()[name])
        release_memory()
        report.progress(done)
    tried = ", ".join(f"{name} on {kernel}" for name, kernel in pairs[:count])
    report.result(f"{ROWS * COLUMNS * CHANNELS:,} elements: {tried}")
