"""Latency of a packed network against the best that its float twin can do, measured side by side.

Three habits make the numbers worth reading. **Prove, then time:** candidates that disagree are not timed at
all. **Interleave:** one call of each in turn, in a rotating order, so that whatever else the machine does
hits all alike; ratios are taken within a round and only then summarised. **Give the rival its best:** the
float network runs eagerly and compiled, in both memory formats, and in bfloat16 where the processor has
instructions for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch._inductor import config as inductor

from .timing import Timing, conditions, instruction_sets, ratio, time_interleaved

__all__ = ["Comparison", "Timing", "compare", "ratio", "time_interleaved"]

NATIVE_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
FLOAT, COMPILED, BFLOAT16 = "float eager", "float compiled", "bfloat16 compiled"
PACKED, PACKED_COMPILED = "packed eager", "packed compiled"


@dataclass(frozen=True)
class Comparison:
    """Outcome of `compare`.

    Attributes:
        timings: candidate -> times in ms.
        differences: candidate -> largest difference from its eager twin, as a share of the twin's largest output.
        formats: float candidate -> the memory format that was faster and is the one timed.
        not_run: candidate -> why it could not run here.
        float_bytes, packed_bytes: parameters and buffers of either model.
        conditions: what the numbers depend on.
    """

    timings: dict[str, Timing]
    differences: dict[str, float]
    formats: dict[str, str]
    not_run: dict[str, str]
    float_bytes: int
    packed_bytes: int
    conditions: dict[str, str] = field(default_factory=dict)

    @property
    def best_float(self) -> str:
        """Name of the fastest float candidate."""
        rivals = [name for name in self.timings if name not in (PACKED, PACKED_COMPILED)]
        return min(rivals, key=lambda name: self.timings[name].median)

    @property
    def best_packed(self) -> str:
        """Name of the fastest packed candidate."""
        ours = [name for name in (PACKED, PACKED_COMPILED) if name in self.timings]
        return min(ours, key=lambda name: self.timings[name].median)

    @property
    def speedup(self) -> float:
        """The best float candidate's time over the best packed one's; below 1 the packed one is slower."""
        return ratio(self.timings[self.best_float], self.timings[self.best_packed])

    @property
    def verdict(self) -> str:
        """One sentence a user can act on."""
        size = self.float_bytes / max(self.packed_bytes, 1)
        if self.speedup > 1.05:
            return (
                f"{self.best_packed} runs {self.speedup:.2f}x as fast as {self.best_float} "
                f"and its tensors take {size:.1f}x less memory."
            )
        if self.speedup >= 0.95:
            return (
                f"{self.best_packed} runs as fast as {self.best_float}; worth it for its size, "
                f"{size:.1f}x less memory."
            )
        return (
            f"Not worth it for speed here: {self.best_packed} takes {1 / self.speedup:.2f}x the time of "
            f"{self.best_float}. Its tensors take {size:.1f}x less memory."
        )

    def table(self) -> Table:
        """The comparison as a table for the terminal, conditions below."""
        table = Table(title="Latency", caption="\n".join(f"{k}: {v}" for k, v in self.conditions.items()))
        table.add_column("candidate")
        for heading in ("median ms", "quartiles ms", "min ms", "speed"):
            table.add_column(heading, justify="right")
        table.add_column("notes")
        reference = self.timings[self.best_float]
        for name, timing in self.timings.items():
            low, high = timing.spread
            notes = [self.formats[name]] if name in self.formats else []
            if name in self.differences:
                gap = self.differences[name]
                notes.append("equals eager bit for bit" if gap == 0 else f"differs from eager by {gap:.1e}")
            table.add_row(
                name, f"{timing.median:.2f}", f"{low:.2f} to {high:.2f}", f"{timing.min:.2f}",
                f"{ratio(reference, timing):.2f}x", ", ".join(notes),
                style="bold" if name == self.best_packed else None,
            )  # fmt: skip
        for name, reason in self.not_run.items():
            table.add_row(name, "-", "-", "-", "-", f"not run: {reason}")
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "timings_ms": {
                name: {
                    "median": t.median, "min": t.min, "quartiles": list(t.spread), "calls": t.calls,
                    "samples": list(t.samples),
                }
                for name, t in self.timings.items()
            },
            "differences": dict(self.differences),
            "formats": dict(self.formats),
            "not_run": dict(self.not_run),
            "float_bytes": self.float_bytes,
            "packed_bytes": self.packed_bytes,
            "speedup": self.speedup,
            "verdict": self.verdict,
            "conditions": dict(self.conditions),
        }  # fmt: skip


def compare(
    float_model: nn.Module,
    packed: nn.Module,
    example_input: Tensor,
    threads: int = 1,
    repeats: int = 15,
    tolerance: float = 1e-3,
    bfloat16: bool | None = None,
    min_time_s: float = 0.005,
) -> Comparison:
    """Time a packed network against its float twin, after checking that compiling changes neither.

    Models are put in evaluation mode for the run and given back as they were, as is torch's number of
    threads. torch.compile's caches are emptied first: it gives up on a model class after eight variants, and
    would then time the eager network under the compiled one's name.

    Args:
        float_model: the network a user would run otherwise; never changed.
        packed: result of `convert`.
        example_input: [N, C, H, W], on the device of both models.
        threads: for torch's own operators and those of the packed network.
        repeats: rounds, see `time_interleaved`.
        tolerance: largest difference allowed between compiled and eager, as a share of the largest eager output.
        bfloat16: also time the float network in bfloat16; None does so where the processor has
            instructions for it.
        min_time_s: see `time_interleaved`.

    Raises:
        ValueError: `threads` is below 1.
        RuntimeError: a compiled network disagrees with its eager twin by more than `tolerance`.
    """
    if threads < 1:
        raise ValueError(f"threads={threads}: at least one is needed.")
    device = example_input.device
    if bfloat16 is None:
        bfloat16 = device.type == "cuda" or bool(NATIVE_BFLOAT16.intersection(instruction_sets()))
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    torch.compiler.reset()
    with _measuring(threads, float_model, packed), torch.no_grad():
        run = _Candidates(example_input, tolerance, synchronise)
        expected = run.add_formats(FLOAT, float_model, compiled=False)
        run.add_formats(COMPILED, float_model, compiled=True, expected=expected)
        if bfloat16:
            run.add_formats(BFLOAT16, float_model, compiled=True, dtype=torch.bfloat16)
        expected = packed(example_input)
        run.calls[PACKED] = lambda: packed(example_input)
        run.add_compiled_packed(packed, expected)
        timings = time_interleaved(run.calls, repeats, min_time_s=min_time_s, synchronise=synchronise)
    facts = conditions(device, threads)
    facts |= {"input": " x ".join(map(str, example_input.shape)), "repeats": f"{repeats}, interleaved"}
    return Comparison(
        timings, run.differences, run.formats, run.not_run, _bytes(float_model), _bytes(packed), facts
    )


class _Candidates:
    """Collects what is to be timed; each addition first proves that it computes the right thing."""

    def __init__(self, example: Tensor, tolerance: float, synchronise: Callable[[], Any]) -> None:
        self.example, self.tolerance, self.synchronise = example, tolerance, synchronise
        self.calls: dict[str, Callable[[], Any]] = {}
        self.differences: dict[str, float] = {}
        self.formats: dict[str, str] = {}
        self.not_run: dict[str, str] = {}

    def add_formats(
        self,
        name: str,
        model: nn.Module,
        compiled: bool,
        expected: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor | None:
        """Try both memory formats, keep the faster; returns the output where it ran."""
        output = None
        tried: dict[str, Callable[[], Any]] = {}
        for label, memory in (
            ("contiguous", torch.contiguous_format),
            ("channels last", torch.channels_last),
        ):
            twin = copy.deepcopy(model).to(dtype=dtype, memory_format=memory)  # type: ignore[call-overload]
            value = self.example.to(dtype=dtype, memory_format=memory)
            call = torch.compile(twin) if compiled else twin
            try:
                # Freezing folds batch norms and lays out weights ahead of time: 1.8 times faster than
                # torch.compile alone on a U-Net. As `options=` of torch.compile it is silently without effect
                # in torch 2.14.
                with inductor.patch(freezing=compiled):
                    output = call(value)
            except RuntimeError as error:
                # A missing C++ compiler must not cost the user the rest of the comparison; the table says it.
                if not compiled:
                    raise
                self.not_run[name] = _reason(error)
                continue
            if expected is not None:
                self._check(f"{name}, {label}", output, expected, name)
            tried[label] = lambda call=call, value=value: call(value)
        if tried:
            quick = time_interleaved(tried, repeats=3, warmup=2, synchronise=self.synchronise)
            self.formats[name] = min(quick, key=lambda label: quick[label].median)
            self.calls[name] = tried[self.formats[name]]
            self.not_run.pop(name, None)
        return output

    def add_compiled_packed(self, packed: nn.Module, expected: Tensor) -> None:
        """torch.compile as a user calls it, without options."""
        compiled = torch.compile(packed)
        try:
            output = compiled(self.example)
        except RuntimeError as error:  # as above
            self.not_run[PACKED_COMPILED] = _reason(error)
            return
        self._check(PACKED_COMPILED, output, expected, PACKED_COMPILED)
        self.calls[PACKED_COMPILED] = lambda: compiled(self.example)

    def _check(self, what: str, output: Tensor, expected: Tensor, name: str) -> None:
        largest = max(float(expected.abs().max()), 1e-12)
        gap = 0.0 if torch.equal(output, expected) else float((output - expected).abs().max()) / largest
        if not gap <= self.tolerance:  # written so that a NaN fails too
            raise RuntimeError(
                f"'{what}' differs from the eager network by {gap:.2e} of its largest output; the tolerance "
                "is "
                f"{self.tolerance:.0e}. Nothing was timed: speeds of different functions cannot be compared. "
                "Run "
                "`verify` on the packed network, or raise tolerance if a difference of this size is "
                "acceptable."
            )
        self.differences[name] = max(gap, self.differences.get(name, 0.0))


@contextmanager
def _measuring(threads: int, *models: nn.Module):
    """Evaluation mode and a number of threads, both put back afterwards."""
    before, modes = torch.get_num_threads(), [(m, m.training) for model in models for m in model.modules()]
    torch.set_num_threads(threads)
    for model in models:
        model.eval()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        for module, mode in modes:
            module.training = mode


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def _reason(error: RuntimeError) -> str:
    line = next((text.strip() for text in str(error).splitlines() if text.strip()), "no message")
    return f"{type(error).__name__}: {line[:120]}"
