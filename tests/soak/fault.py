"""Reads one byte behind a guarded tensor: proves that a fault is seen, and named. Run by `test_soak.py`."""

from __future__ import annotations

import ctypes

import torch

from .job import Report
from .memory import put


def run(report: Report, count: int, number: int) -> None:
    report.keep("reads behind the end")
    tensor = put(torch.zeros(3, dtype=torch.int32), "before a page")
    report.result(str(ctypes.string_at(tensor.data_ptr() + tensor.nbytes, 1)))
