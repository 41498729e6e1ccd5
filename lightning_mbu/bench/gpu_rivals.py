"""What `make gpu-bench` compares with: instructions and memory at their peak, and 8-bit products of torch.

Neither PyTorch nor torchao runs a whole U-Net in eight bits on such cards: torch's quantized convolutions are for
processors (on GPUs a prototype that its builds leave out), torchao 0.18 has int8 for linear layers alone, and for
convolutions weights that it turns back into floats, or fp8 from compute capability 10 on (mslk), transposed ones never.
What there is are products of matrices. They bound from below what a network in eight bits could take.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from mbu_ops.cards import CARDS, Card
from mbu_ops.cuda import cuda_devices
from mbu_ops.peak import INSTRUCTIONS, Peak
from mbu_ops.roofline import Layer

from ..timing import time_interleaved

Call = Callable[[], object]
KINDS = ("int8", "fp8")
# Rows of a matrix that is timed, several times the cache; more of them take longer in proportion.
MOST_ROWS = 1 << 18
_COPIED_BYTES = 1 << 30


def captured(call: Call, device: torch.device) -> Call:
    """`call` as a CUDA graph; on the CPU, itself."""
    if device.type != "cuda":
        return call
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def microseconds(call: Call, device: torch.device, repeats: int) -> tuple[float, float, float]:
    """Median and quartiles of a call in a CUDA graph."""
    timing = time_interleaved(
        {"x": captured(call, device)}, repeats, synchronise=lambda: synchronise(device)
    )["x"]
    low, high = timing.spread
    return 1e3 * timing.median, 1e3 * low, 1e3 * high


def copy_rate(device: torch.device, repeats: int) -> float:
    """10^9 bytes a second, read and written, of a copy within the card's memory."""
    source = torch.empty(
        _COPIED_BYTES if device.type == "cuda" else 1 << 20, dtype=torch.uint8, device=device
    )
    target = torch.empty_like(source)
    return 2 * source.numel() / microseconds(lambda: target.copy_(source), device, repeats)[0] / 1e3


def card_of(device: torch.device, peaks: Sequence[Peak], copied: float) -> Card | None:
    """The card for the model of `mbu_ops.roofline`: its published bandwidth, or that of a copy where it is not in the
    list, and the measured rates of its instructions. None where no kernel of the library runs on it."""
    if device.type != "cuda":
        return None
    found = cuda_devices()[device.index or 0]
    wanted = os.environ.get("MBU_CUDA_FAMILY")
    families = (family for family in INSTRUCTIONS if family in found.families and wanted in (None, family))
    family = next(families, None)
    if family is None:
        return None
    name = found.name.replace("GeForce ", "")
    known = next((card for card in CARDS if card.name.split(" GB")[0] in name), None)
    card = known or Card(name, found.capability, family, found.multiprocessors, math.nan, math.nan, None, math.nan, copied, "")  # fmt: skip
    rates = {peak.instruction: peak.rate for peak in peaks}
    return replace(
        card,
        family=family,
        b1=rates.get(INSTRUCTIONS[family]),
        int8=rates.get(INSTRUCTIONS["sm80_int8"]) or card.int8,
    )


def int8_call(rows: int, k: int, columns: int, device: torch.device) -> Call:
    """A product of signed bytes with int32 sums, checked on its first place."""
    a = torch.randint(-1, 2, (rows, k), dtype=torch.int8, device=device)
    b = torch.randint(-1, 2, (columns, k), dtype=torch.int8, device=device).t()
    multiply = torch.ops.aten._int_mm.default
    first = multiply(a, b)[0, 0]
    if int(first) != int((a[0].int() * b[:, 0].int()).sum()):
        raise RuntimeError("torch._int_mm gives a wrong sum")
    return lambda: multiply(a, b)


def fp8_call(rows: int, k: int, columns: int, device: torch.device) -> Call:
    """A product of 8-bit floats (e4m3) with results in bf16, checked on its first row."""
    kind = torch.float8_e4m3fn
    a = torch.randn(rows, k, device=device).to(kind)
    b = torch.randn(columns, k, device=device).to(kind).t()
    one = torch.ones((), device=device)
    fast = device.type == "cuda"  # sums of fewer bits

    def run() -> torch.Tensor:
        return torch.ops.aten._scaled_mm.default(
            a, b, one, one, out_dtype=torch.bfloat16, use_fast_accum=fast
        )

    found, expected = run()[0].float(), a[0].float() @ b.float()
    if not (found - expected).abs().max() <= 0.02 * expected.abs().max():  # bf16 keeps 8 bits
        raise RuntimeError("torch._scaled_mm gives a wrong sum")
    return run


def product_of(layer: Layer) -> tuple[int, int, int]:
    """Rows, length of a sum and columns of a one-bit layer as one product; torch takes more than 16 rows, and
    multiples of 16 elsewhere."""
    k, columns = (
        -(-size // 16) * 16 for size in (layer.channels * layer.taps, layer.out_channels * layer.passes)
    )
    return max(32, layer.pixels), k, columns


def timed_shapes(layers: Iterable[Layer]) -> list[tuple[int, int, int]]:
    """The distinct products of one-bit layers, none of more than `MOST_ROWS`."""
    products = (product_of(layer) for layer in layers if layer.one_bit)
    return sorted({(min(rows, MOST_ROWS), k, columns) for rows, k, columns in products})


def product_row(shape: tuple[int, int, int], device: torch.device, repeats: int) -> dict[str, Any]:
    """Microseconds of the product by kind, or why torch has none here."""
    row: dict[str, Any] = {"shape": list(shape)}
    for kind, make in zip(KINDS, (int8_call, fp8_call), strict=True):
        try:
            row[kind] = microseconds(make(*shape, device), device, repeats)[0]
        except (RuntimeError, ValueError) as error:
            row[kind] = str(error).splitlines()[0][:80]
    return row


def bound_ms(layers: Iterable[Layer], rows: Sequence[dict[str, Any]], kind: str) -> float | None:
    """What the products of all one-bit layers take at least: each its own time, in proportion to its rows, or that at
    the rate of the fastest product of all, whichever is less. Copies that make a matrix of an image, batch norms, pools
    and the float layers are left out. None where some product has no time.
    """
    times = {tuple(row["shape"]): row[kind] for row in rows if not isinstance(row[kind], str)}
    rates = [math.prod(shape) / time for shape, time in times.items()]
    total = 0.0
    for layer in layers:
        if not layer.one_bit:
            continue
        rows_of, k, columns = product_of(layer)
        time = times.get((min(rows_of, MOST_ROWS), k, columns))
        if time is None:
            return None
        total += min(time * max(1, rows_of / MOST_ROWS), rows_of * k * columns / max(rates))
    return total / 1e3
