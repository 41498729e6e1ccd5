"""What a study notes about a trained network beside its scores: operations, bytes and latency."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..deploy import convert, verify
from ..summary import summary
from ..timing import time_interleaved
from .data import DataSet
from .training import Experiment, Trained, loader, run


def operations(trained: Trained, example_input: Tensor) -> dict[str, float]:
    """Multiply-adds for one image: `float GMAC`; `quantized GMAC`, in which each plane of a thermometer code counts;
    `quantized GMAC, masked twice`, as MBU-Net counts them, whose masked layers take two popcounts."""
    counts = {"float GMAC": 0.0, "quantized GMAC": 0.0, "quantized GMAC, masked twice": 0.0}
    for layer in summary(trained.model, tuple(example_input.shape)).layers:
        if layer.kind == "float":
            counts["float GMAC"] += layer.macs / 1e9
            continue
        one_bit = layer.macs / 1e9
        counts["quantized GMAC"] += one_bit
        counts["quantized GMAC, masked twice"] += one_bit * (2 if layer.kind == "masked" else 1)
    return counts


def latency(trained: Trained, example_input: Tensor, threads: int, compiled: bool) -> dict[str, float]:
    """`ms` for one image, median, of the packed network, or of the float one where no layer is quantized.

    Raises:
        ValueError: the packed network computes other bits than the trained one.
    """
    model: Any = trained.model
    if trained.scores["zeros"]:
        model = convert(model, example_input)
        check = verify(trained.model, model, example_input)
        if not check.ok:
            raise ValueError(
                f"{check.mismatches} bits differ between trained and packed network; nothing is timed."
            )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        call = torch.compile(model, dynamic=False) if compiled else model
        with torch.no_grad():
            timing = time_interleaved({"network": lambda: call(example_input)})["network"]
    finally:
        torch.set_num_threads(before)
        torch.compiler.reset()
    return {"ms": timing.median, "ms, fastest": timing.min}


def row(
    experiment: Experiment, data: DataSet, *, timed: bool = False, threads: int = 1, compiled: bool = True
) -> Callable[[Callable[[float], None]], dict[str, Any]]:
    """A row of a study: trains, measures, and returns plain numbers; `value` is the validation score."""
    return partial(
        _measure, experiment, data, timed, threads, compiled
    )  # which can be sent to another process


def _measure(
    experiment: Experiment, data: DataSet, timed: bool, threads: int, compiled: bool,
    report: Callable[[float], None],
) -> dict[str, Any]:  # fmt: skip
    trained = run(experiment, data, report)
    example = next(iter(loader(data, "test", 1)))[0]
    result = {"value": trained.scores[f"val/{primary(data)}"], **trained.scores}
    result |= operations(trained, example)
    if timed:
        result |= latency(trained, example, threads, compiled)
    return result


def primary(data: DataSet) -> str:
    """The score that decides: Dice for one class, mean IoU for several."""
    return "dice" if len(data.classes) == 1 else "iou"
