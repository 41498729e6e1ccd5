"""The job `fork`: processes forked while the parent's OpenMP threads exist, and loaders that pack in their workers."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import mbu_ops.functional as F
from mbu_ops import pack_bits, pack_weight, reference

from .job import Report

LIMIT = 60  # seconds after which a child hangs


class Packing(Dataset):
    """Item k: sums of one convolution, and a large packed tensor."""

    def __init__(self, bits: Tensor, weight: Tensor):
        self.bits, self.weight = bits, weight

    def __len__(self) -> int:
        return 6

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        sums = F.conv2d(self.bits, self.weight, 96, 3, 1, 1)
        return sums, F.pack(sums)


def run(report: Report, count: int, number: int) -> None:
    torch.manual_seed(number)
    torch.set_num_threads(2)
    # Large enough that results come from memory that the library keeps (32 MiB), and that two threads share them.
    bits = pack_bits(torch.rand(2, 220, 220, 64) < 0.5)
    planes = pack_weight(torch.randint(-1, 2, (96, 64, 3, 3)))
    weight, expected = F.tile_weight(planes), reference.conv2d(bits, planes, padding=1)
    packed = reference.pack(expected)
    for index in range(count):
        # The parent's pool of threads is at work, and has memory between two uses.
        assert torch.equal(F.conv2d(bits, weight, 96, 3, 1, 1), expected)
        report.keep(f"child {index}")
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT)
            code = 1
            try:
                sums = F.conv2d(bits, weight, 96, 3, 1, 1)
                words = F.pack(sums)
                torch.set_num_threads(
                    1
                )  # operations of torch itself wait for ever in such a child without this
                code = 0 if torch.equal(sums, expected) and torch.equal(words, packed) else 3
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == 0, f"a forked process ended with {status} ({-signal.SIGALRM}: it hung)"
        report.progress(index)
    loader = DataLoader(Packing(bits, weight), num_workers=2, multiprocessing_context="fork", timeout=LIMIT)
    for sums, words in loader:
        assert torch.equal(sums[0], expected) and torch.equal(words[0], packed)
    report.result(f"{count} processes forked from one with two threads; a loader with 2 forked workers")
