"""Memory that one inference takes, and its time, at several image sizes; each candidate in a process of its own."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor

from mbu_ops.backends import release_memory

from ..folding import fold_transposed
from ..timing import TIMING
from .models import float_model, twins

FLOAT, PACKED = "float compiled", "packed compiled"
_LONG_ENOUGH_S = 4.0  # of timing
_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_memory(
    model: str,
    arguments: dict[str, Any],
    candidate: str,
    shape: Sequence[int],
    report: Callable[[str], Any] = lambda step: None,
    repeats: int = 7,
) -> dict[str, Any]:
    """Peak memory and time of one inference.

    The peak is what the process's resident memory rises to during the call, above where it stood before it. A call
    has gone before, so neither compiling nor laying out weights counts; weights are counted apart, by size.

    Args:
        model, arguments: see `models.float_model`.
        candidate: `FLOAT` or `PACKED`.
        shape: of the example, `[1, C, H, W]`.
        report: is told each step.
        repeats: timed calls, fewer where they take long; the median counts.

    Returns:
        Plain types: `peak_bytes` (None where this system cannot tell), `weight_bytes`, `ms`, `ns_per_pixel`.
    """
    report("building and packing")
    _, channels, height, width = shape
    example = torch.randn(*shape)
    with torch.no_grad():
        network: nn.Module
        if candidate == PACKED:
            network = twins(model, channels, arguments=arguments)[2]
        else:
            network = fold_transposed(float_model(model, channels, arguments), example)
        report("compiling")
        compiled: Any = torch.compile(network)
        # Both as in `compare`: freezing is for the float network.
        with inductor.patch(freezing=candidate == FLOAT):
            compiled(example)
        report(TIMING)
        peak = peak_bytes(lambda: compiled(example))
        compiled(example)  # which takes back the memory given away for that
        times = []
        while len(times) < repeats and sum(times) < 1e3 * _LONG_ENOUGH_S:
            start = time.perf_counter()
            compiled(example)
            times.append(1e3 * (time.perf_counter() - start))
    ms = statistics.median(times)
    return {
        "candidate": candidate,
        "size": f"{height}x{width}",
        "peak_bytes": peak,
        "weight_bytes": sum(t.numel() * t.element_size() for t in _tensors(network)),
        "ms": ms,
        "ns_per_pixel": 1e6 * ms / (height * width),
    }


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def peak_bytes(call: Callable[[], Any]) -> int | None:
    """Bytes by which resident memory rises during `call`; None where the peak cannot be reset."""
    gc.collect()
    release_memory()
    library = ctypes.util.find_library("c")
    trim = getattr(ctypes.CDLL(library), "malloc_trim", None) if library else None
    if trim is not None:
        trim(0)  # memory freed earlier would otherwise serve the call without showing
    try:
        _REFERENCES.write_text("5")  # Linux: the peak starts again from the present
    except OSError:
        return None
    before = _resident()
    call()
    # Linux reports the peak in KiB, and this reset applies to it as well.
    return max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def _resident() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
