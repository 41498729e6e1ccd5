"""The job `threads`: several Python threads call at once, on kernels that share a pool; every result is compared."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable

import torch
from torch import Tensor

import mbu_ops.functional as F
from mbu_ops import pack_bits, pack_weight, reference

from .job import Report

CALLERS = 4


def _calls(generator: torch.Generator) -> list[tuple[Callable[[], Tensor], Tensor]]:
    """Calls of different sizes, some of them split among the pool's threads, with their results."""
    made = []
    for channels, out_channels, height, width in (
        (64, 64, 40, 40),
        (33, 97, 9, 17),
        (128, 32, 64, 64),
        (3, 8, 5, 5),
    ):
        bits = pack_bits(torch.rand(2, height, width, channels, generator=generator) < 0.5)
        weight = torch.randint(-1, 2, (out_channels, channels, 3, 3), generator=generator)
        planes = pack_weight(weight)
        tiled = F.tile_weight(planes)
        threshold = torch.randint(-9, 9, (2, out_channels), dtype=torch.int32, generator=generator)
        flip = torch.zeros(2, (out_channels + 31) // 32, dtype=torch.int32)
        affine, residual = torch.ones(1, 2, out_channels), torch.ones(2, out_channels, height, width)
        sums = reference.conv2d(bits, planes, padding=1)
        arguments = (out_channels, 3, 1, 1)
        made += [
            (lambda b=bits, t=tiled, a=arguments: F.conv2d(b, t, *a), sums),
            (lambda b=bits, t=tiled, a=arguments, h=threshold, f=flip: F.conv2d_threshold(b, t, h, f, *a),
             reference.conv2d_threshold(bits, planes, threshold, flip, padding=1)),
            (lambda b=bits, t=tiled, a=arguments, g=affine, r=residual: F.conv2d_stream(b, t, g, [r], None, *a)[0],
             reference.stream(sums, affine, [residual], None)[0]),
            (lambda b=bits: F.max_pool2d(b, 3, 2, 1), reference.max_pool2d(bits, 3, 2, 1)),
            (lambda x=sums: F.pack(x), reference.pack(sums)),
        ]  # fmt: skip
    return made


def run(report: Report, count: int, number: int) -> None:
    torch.set_num_threads(2)
    sys.setswitchinterval(1e-4)  # threads change places often
    calls = _calls(torch.Generator().manual_seed(number))
    done, wrong = [0] * CALLERS, []

    def caller(index: int) -> None:
        order = random.Random(number + index)
        torch.set_num_threads(1 + index % 3)  # of this thread
        while sum(done) < count and not wrong:
            place = order.randrange(len(calls))
            call, expected = calls[place]
            if not torch.equal(call(), expected):
                wrong.append(place)
            done[index] += 1
            if index == 0:
                report.progress(sum(done))

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, f"call {wrong[0]} gave another result while others ran"
    report.result(f"{sum(done)} calls from {CALLERS} threads at once, {len(calls)} different ones")
