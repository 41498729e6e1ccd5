"""Whole networks on a GPU: packed against float in half precision, both by torch.compile with CUDA graphs."""

from __future__ import annotations

import copy
import functools
import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from ..bfloat16 import BFLOAT16_TOLERANCE
from ..deploy import PackedModel, verify
from ..timing import ratio, time_interleaved
from .gpu_rivals import Call, captured, synchronise

RIVALS = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Largest difference of logits, as a share of the largest: of the packed network between devices and when compiled. Its
# float sums at both ends may be added in another order, which moves a bit that lies at its threshold.
TOLERANCE = 1e-3
_CHECKED = (2, (64, 128))  # images and their size, bit by bit
_ENERGY_MS, _TIMING_S = 1000, 5.0


class Energy:
    """Joules by the card's own counter; `why` says what stands against it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.why = device, ""
        self._read: Callable[[], float] | None = None
        if device.type != "cuda":
            self.why = "measured on a GPU only"
            return
        try:
            import pynvml  # pyright: ignore[reportMissingImports]

            pynvml.nvmlInit()
            # Not by number: CUDA_VISIBLE_DEVICES counts otherwise.
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            read = functools.partial(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
            read()
            self._read = read
        except Exception as error:  # noqa: BLE001 - a driver that does not tell is no reason to measure nothing
            self.why = f"{type(error).__name__}: {error}"

    def joules(self, call: Call, ms: float) -> float | None:
        """Of one call that takes `ms`, as the mean over a second."""
        if self._read is None:
            return None
        calls = max(1, round(_ENERGY_MS / ms))
        synchronise(self.device)
        before = self._read()  # millijoules
        for _ in range(calls):
            call()
        synchronise(self.device)
        return (self._read() - before) / 1e3 / calls


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest, as a share of the largest expected value; NaN where something is no number."""
    found, expected = found.float().cpu(), expected.float().cpu()
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


@torch.no_grad()
def check(
    one_bit: nn.Module,
    packed: PackedModel,
    device: torch.device,
    shapes: Sequence[tuple[int, tuple[int, int]]] = (),
) -> dict[str, Any]:
    """Every bit of the packed network against its one-bit twin, on the processor; then its logits on `device`, on that small
    input and on one of each shape (images, size): layers take other kernels where they fill a card.

    Returns:
        `bits`, their number; `logits`, the largest difference as a share of the largest.

    Raises:
        RuntimeError: they differ; nothing may be timed.
    """
    images, size = _CHECKED
    x = torch.randn(images, packed.input_spec.channels, *size)
    found = verify(one_bit, packed, x)
    if not found.ok:
        raise RuntimeError(f"the packed network differs from the trained one; nothing is timed.\n{found}")
    there, largest = copy.deepcopy(packed).to(device), 0.0
    for images, size in (_CHECKED, *shapes):
        x = torch.randn(images, packed.input_spec.channels, *size)
        off = difference(there(x.to(device)), packed(x))
        if not off <= TOLERANCE:
            raise RuntimeError(
                f"the packed network's logits on {device} differ from the processor's by {off:.2g} of the largest, "
                f"more than {TOLERANCE:g}, for {images} x {size[1]}x{size[0]}; nothing is timed"
            )
        largest = max(largest, off)
    return {"bits": sum(layer.bits for layer in found.layers), "logits": largest}


def compiled(module: nn.Module, dry: bool) -> Callable[[Tensor], Tensor]:
    """For one shape: dynamic shapes, which a second one would bring, are slower."""
    return module if dry else torch.compile(module, mode="reduce-overhead", dynamic=False)


def one_bit_call(packed: PackedModel, x: Tensor, dry: bool) -> tuple[Callable[[Tensor], Tensor], str]:
    """The packed network compiled, or in a CUDA graph of its own with the reason."""
    run = compiled(packed, dry)
    try:
        run(x)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - shown beside the time
        graph_output: list[Tensor] = []
        replay = captured(lambda: graph_output.append(packed(x)), x.device)

        def call(_: Tensor) -> Tensor:
            replay()
            return graph_output[-1]

        return call, f"in a CUDA graph of its own, as torch.compile failed: {_line(error)}"
    return run, ""


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


def forget(device: torch.device) -> None:
    """Compiled code, CUDA graphs and their memory: the next shape starts anew."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@torch.no_grad()
def network_row(
    model: nn.Module,
    packed: PackedModel,
    images: int,
    size: tuple[int, int],
    rival: str,
    device: torch.device,
    repeats: int,
    energy: Energy,
    dry: bool = False,
) -> dict[str, Any]:
    """Times of the packed network and of the float one in `rival`, in turn, for one shape.

    Args:
        model: the float network, anywhere; left as it is.
        packed: on `device`.
        rival: a key of `RIVALS`.

    Raises:
        RuntimeError: logits differ, or memory does not suffice.
    """
    forget(device)
    counters.clear()
    x = torch.randn(images, packed.input_spec.channels, *size, device=device)
    run, note = one_bit_call(packed, x, dry)
    off = difference(run(x), packed(x))
    if not off <= TOLERANCE:
        raise RuntimeError(f"compiled and eager packed logits differ by {off:.2g} of the largest")
    half = copy.deepcopy(model).to(device, RIVALS[rival]).to(memory_format=torch.channels_last)
    values = x.to(RIVALS[rival]).contiguous(memory_format=torch.channels_last)
    fast = compiled(half, dry)
    expected = copy.deepcopy(model).to(device)(x[:1])
    rival_off = difference(fast(values)[:1], expected)
    if not rival_off <= BFLOAT16_TOLERANCE:
        raise RuntimeError(f"{rival} logits differ from float32 by {rival_off:.2g} of the largest")
    calls: dict[str, Call] = {"one-bit": lambda: run(x), rival: lambda: fast(values)}
    timings = time_interleaved(calls, repeats, budget_s=_TIMING_S, synchronise=lambda: synchronise(device))
    if counters["inductor"]["cudagraph_skips"]:
        note = f"{note}; ".lstrip("; ") + "torch.compile left CUDA graphs out"
    row: dict[str, Any] = {
        "images": images, "size": list(size), "rival": rival, "note": note, "differences": [off, rival_off],
        "faster": ratio(timings[rival], timings["one-bit"]),
    }  # fmt: skip
    for key, name in (("ours", "one-bit"), ("theirs", rival)):
        timing, joules = timings[name], energy.joules(calls[name], timings[name].median)
        row[key] = {
            "ms": timing.median / images,
            "quartiles": [time / images for time in timing.spread],
            "images_per_s": 1e3 * images / timing.median,
            "joules": None if joules is None else joules / images,
        }
    return row
