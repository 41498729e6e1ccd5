"""The job `kernels`: random layers on every CPU kernel that this processor runs, operands at pages that nobody may touch."""

from __future__ import annotations

import os
from collections import Counter

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from mbu_ops.backends import cpu_kernels

from . import layers, rows
from .job import Report

# Of ten layers; convolutions have the most code behind them.
KINDS = [layers.convolution] * 5 + [rows.product, rows.packing, rows.packing, rows.pooling, rows.stem]
CHUNK = 200  # layers at a time: what hypothesis remembers of a run stays small


def run(report: Report, count: int, number: int) -> None:
    """Compares `count` results; a result is one call of one operation on one kernel.

    Args:
        report: hears of progress.
        count: results at least.
        number: seed.
    """
    kernels = [kernel.name for kernel in cpu_kernels() if kernel.available]
    by_kind: Counter[str] = Counter()
    compared = chunk = 0

    def one_layer(data: st.DataObject) -> None:
        nonlocal compared
        kind = data.draw(st.sampled_from(KINDS))
        torch.manual_seed(data.draw(st.integers(0, 2**32)))
        case = layers.Case(data.draw, kernels, report.keep, {"operation": kind.__name__})
        kind(case)
        by_kind[kind.__name__] += case.compared
        compared += case.compared
        report.progress(compared)

    while compared < count:
        several = settings(
            max_examples=min(CHUNK, max(count // (2 * len(kernels)), 1)), deadline=None, database=None,
            phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        seed(number + chunk)(several(given(st.data())(one_layer)))()
        chunk += 1
    report.result(
        f"{compared} results of {', '.join(kernels)}: "
        + ", ".join(f"{name} {n}" for name, n in by_kind.most_common()),
        f"{torch.get_num_threads()} threads by default, {os.cpu_count()} processors",
    )
