"""What `make gpu-bench` compares with: instructions at their peak, and 8-bit products of torch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mbu_ops.peak import peak_rates
from mbu_ops.roofline import Layer

from ..timing import time_interleaved

Call = Callable[[], object]


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


def peak_rows(device: torch.device) -> list[str]:
    """Markdown rows: instruction, rate or the reason why there is none."""
    if device.type != "cuda":
        return ["| - | measured on a GPU only |"]
    return [
        f"| {peak.instruction} | {peak.why if peak.rate is None else f'{peak.rate:.0f}'} |"
        for peak in peak_rates(device)
    ]


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

    def run() -> torch.Tensor:
        return torch.ops.aten._scaled_mm.default(a, b, one, one, out_dtype=torch.bfloat16)

    found, expected = run()[0].float(), a[0].float() @ b.float()
    if not (found - expected).abs().max() <= 0.02 * expected.abs().max():  # bf16 keeps 8 bits
        raise RuntimeError("torch._scaled_mm gives a wrong sum")
    return run


def byte_rows(layers: list[Layer], device: torch.device, repeats: int) -> list[str]:
    """Markdown rows: layer, microseconds of an int8 and of an fp8 product, or why torch has none here."""
    rows = []
    for layer in layers:
        # torch takes more than 16 rows, and multiples of 16 elsewhere.
        k, columns = (-(-size // 16) * 16 for size in (layer.channels * layer.taps, layer.out_channels))
        pixels = max(32, layer.pixels * layer.passes)
        cells = []
        for make in (int8_call, fp8_call):
            try:
                call = captured(make(pixels, k, columns, device), device)
            except (RuntimeError, NotImplementedError, ValueError) as error:
                cells.append(str(error).splitlines()[0][:80].replace("|", "/"))
                continue
            timing = time_interleaved({"x": call}, repeats, synchronise=lambda: synchronise(device))["x"]
            cells.append(f"{1e3 * timing.median:.1f}")
        rows.append(f"| {layer.name} | {' | '.join(cells)} |")
    return rows
