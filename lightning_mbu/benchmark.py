"""Latency of a packed network against the best that its float twin can do, measured side by side.

Three habits make the numbers worth reading. **Prove, then time:** candidates that disagree are not timed at
all. **Interleave:** one call of each in turn, in a rotating order, so that whatever else the machine does
hits all alike; ratios are taken within a round and only then summarised. **Give the rival its best:** the
float network runs eagerly and compiled, in both memory formats, in bfloat16 where the processor has
instructions for it, and in whatever other runtime the caller brings along.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor

from .bfloat16 import (
    BFLOAT16_COMPILED,
    BFLOAT16_EAGER,
    BFLOAT16_TOLERANCE,
    FAST_BFLOAT16,
    SLOW_BFLOAT16,
    in_bfloat16,
)
from .comparison import COMPILED, PACKED, PACKED_COMPILED, Comparison
from .folding import fold_transposed
from .timing import TIMING, Timing, conditions, instruction_sets, time_interleaved

FLOAT = "float eager"
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


class Disagreement(RuntimeError):
    """A candidate computes something else than it should, so no time may be shown."""


@dataclass(frozen=True)
class Rival:
    """Another way to run the float network.

    Attributes:
        name: as the table shows it.
        build: (float model, float32 example `[N, C, H, W]`, threads) -> function without arguments that runs the
            network and returns its output. What cannot run here raises; the message is shown.
        tolerance: largest difference from float32 allowed, as a share of the largest output.
    """

    name: str
    build: Callable[[nn.Module, Tensor, int], Callable[[], Tensor]]
    tolerance: float


def compare(
    float_model: nn.Module,
    packed: nn.Module,
    example_input: Tensor,
    threads: int = 1,
    repeats: int = 15,
    tolerance: float = 1e-3,
    bfloat16: bool | None = None,
    min_time_s: float = 0.005,
    rivals: Sequence[Rival] = (),
    budget_s: float | None = None,
    report: Callable[[str], Any] = lambda step: None,
) -> Comparison:
    """Time a packed network against its float twin, after checking that they compute what they should.

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
            instructions that make it faster than float32.
        min_time_s: see `time_interleaved`.
        rivals: other ways to run the float network. One that cannot run, or computes something else, is listed
            with its reason and not timed.
        budget_s: seconds that timing may take; fewer rounds, though at least 3, where `repeats` would take longer.
        report: is told each step, for a progress bar.

    Raises:
        ValueError: `threads` is below 1.
        Disagreement: a candidate of PyTorch's or ours differs from its eager twin by more than its tolerance.
    """
    if threads < 1:
        raise ValueError(f"threads={threads}: at least one is needed.")
    device = example_input.device
    fast = device.type == "cuda" or bool(FAST_BFLOAT16.intersection(instruction_sets()))
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    torch.compiler.reset()
    with measuring(threads, float_model, packed), torch.no_grad():
        run = _Candidates(example_input, tolerance, synchronise)
        report(FLOAT)
        expected = run.add_eager(float_model)
        report(COMPILED)
        folded = fold_transposed(float_model, example_input)
        run.add_compiled(folded, expected)
        if fast if bfloat16 is None else bfloat16:
            report("bfloat16")
            run.add_bfloat16(float_model, folded, expected)
        elif bfloat16 is None:
            run.not_run |= dict.fromkeys((BFLOAT16_EAGER, BFLOAT16_COMPILED), SLOW_BFLOAT16)
        for rival in rivals:
            report(rival.name)
            run.add_rival(rival, float_model, expected, threads)
        report(PACKED_COMPILED)
        run.add_packed(packed)
        report(TIMING)
        timings = time_interleaved(run.calls, repeats, 0, min_time_s, budget_s, synchronise)
    rounds = len(next(iter(timings.values())).samples)
    facts = conditions(device, threads)
    facts |= {"input": " x ".join(map(str, example_input.shape)), "repeats": f"{rounds}, interleaved"}
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

    def add_eager(self, model: nn.Module) -> Tensor:
        """The float network as it is, in the faster memory format; returns its output."""
        tried = {}
        for label, memory in FORMATS.items():
            twin, value = _as(model, memory), self.example.contiguous(memory_format=memory)
            tried[label] = lambda twin=twin, value=value: twin(value)
        self._keep_fastest(FLOAT, tried)
        return model(self.example)

    def add_compiled(self, model: nn.Module, expected: Tensor) -> None:
        """torch.compile with freezing, in channels_last, into which the compiler brings convolutions in any case."""
        value = self.example.contiguous(memory_format=torch.channels_last)
        found = self._freeze(COMPILED, _as(model, torch.channels_last), value)
        if found is not None:
            self._check(f"{COMPILED}, channels last", found[1], expected, COMPILED, self.tolerance)
            self._keep_fastest(COMPILED, {"channels last": found[0]})

    def add_bfloat16(self, model: nn.Module, folded: nn.Module, expected: Tensor) -> None:
        """Eagerly and compiled, each by autocast or with everything cast, whichever is faster; in channels_last."""
        value = self.example.contiguous(memory_format=torch.channels_last)
        tried: dict[str, Callable[[], Any]] = {}
        for label, (function, x) in in_bfloat16(model, value).items():
            what = f"{BFLOAT16_EAGER}, {label}"
            self._check(what, function(x).float(), expected, BFLOAT16_EAGER, BFLOAT16_TOLERANCE)
            tried[label] = lambda function=function, x=x: function(x)
        self._keep_fastest(BFLOAT16_EAGER, tried)
        tried = {}
        for label, (function, x) in in_bfloat16(folded, value).items():
            found = self._freeze(BFLOAT16_COMPILED, function, x)
            if found is not None:
                what = f"{BFLOAT16_COMPILED}, {label}"
                self._check(what, found[1].float(), expected, BFLOAT16_COMPILED, BFLOAT16_TOLERANCE)
                tried[label] = found[0]
        self._keep_fastest(BFLOAT16_COMPILED, tried)

    def add_rival(self, rival: Rival, model: nn.Module, expected: Tensor, threads: int) -> None:
        """Whatever the rival makes of a copy of the float network."""
        try:
            call = rival.build(copy.deepcopy(model), self.example, threads)
            gap = _gap(call().float(), expected)
        except Exception as error:  # noqa: BLE001 - packages raise what they like; the table says it
            self.not_run[rival.name] = _reason(error)
            return
        if not gap <= rival.tolerance:
            self.not_run[rival.name] = (
                f"its output differs from float32 by {gap:.2g} of the largest; {rival.tolerance:g} is allowed"
            )
            return
        self.differences[rival.name] = gap
        self.calls[rival.name] = call

    def add_packed(self, packed: nn.Module) -> None:
        """Eager, and compiled as a user calls it: without options. Images in the faster memory format."""
        compiled = torch.compile(packed)
        eager_calls, compiled_calls = {}, {}
        for label, memory in FORMATS.items():
            value = self.example.contiguous(memory_format=memory)
            eager_calls[label] = lambda value=value: packed(value)
            try:
                output = compiled(value)
            except RuntimeError as error:  # no C++ compiler
                self.not_run[PACKED_COMPILED] = _reason(error)
                continue
            self._check(f"{PACKED_COMPILED}, {label}", output, packed(value), PACKED_COMPILED, self.tolerance)
            compiled_calls[label] = lambda value=value: compiled(value)
        self._keep_fastest(PACKED, eager_calls)
        self._keep_fastest(PACKED_COMPILED, compiled_calls)

    def _freeze(
        self, name: str, function: Callable[[Tensor], Tensor], value: Tensor
    ) -> tuple[Callable[[], Tensor], Tensor] | None:
        """Compiled with freezing, and its first result; None where no compiler works."""
        try:
            return frozen(function, value)
        except RuntimeError as error:
            # A missing C++ compiler must not cost the user the rest of the comparison; the table says it.
            self.not_run[name] = _reason(error)
            return None

    def _keep_fastest(self, name: str, tried: dict[str, Callable[[], Any]]) -> None:
        if tried:
            self.formats[name] = next(iter(tried))
            if len(tried) > 1:
                quick = time_interleaved(tried, 1, 0, min_time_s=0.1, synchronise=self.synchronise)
                self.formats[name] = min(quick, key=lambda label: quick[label].min)
            self.calls[name] = tried[self.formats[name]]
            self.not_run.pop(name, None)

    def _check(self, what: str, output: Tensor, expected: Tensor, name: str, tolerance: float) -> None:
        gap = _gap(output, expected)
        if not gap <= tolerance:  # written so that a NaN fails too
            raise Disagreement(
                f"'{what}' differs from the eager network by {gap:.2e} of its largest output; the tolerance is "
                f"{tolerance:.0e}. Nothing was timed: speeds of different functions cannot be compared. Run "
                "`verify` on the packed network, or raise the tolerance if a difference of this size is acceptable."
            )
        self.differences[name] = max(gap, self.differences.get(name, 0.0))


def frozen(function: Callable[[Tensor], Tensor], value: Tensor) -> tuple[Callable[[], Tensor], Tensor]:
    """A call of `function` on `value`, compiled at its best, and the result of the first.

    Freezing folds batch norms and lays out weights ahead of time: 1.8 times faster than torch.compile alone on a U-Net.
    As `options=` of torch.compile it is silently without effect in torch 2.14.
    """
    call = torch.compile(function)
    with inductor.patch(freezing=True):
        first = call(value)
    return lambda: call(value), first


def time_floats(
    models: dict[str, nn.Module], example: Tensor, threads: int, repeats: int
) -> dict[str, Timing]:
    """Latencies of float networks by name, compiled as `compare` compiles the float twin, timed in turn."""
    value, calls = example.contiguous(memory_format=torch.channels_last), {}
    with measuring(threads, *models.values()), torch.no_grad():
        for name, model in models.items():
            calls[name], _ = frozen(_as(fold_transposed(model, example), torch.channels_last), value)
        return time_interleaved(calls, repeats, 1)


def _gap(output: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected value; NaN where the output has one."""
    largest = max(float(expected.abs().max()), 1e-12)
    return 0.0 if torch.equal(output, expected) else float((output - expected).abs().max()) / largest


def _as(model: nn.Module, memory: torch.memory_format) -> nn.Module:
    return copy.deepcopy(model).to(memory_format=memory)  # type: ignore[call-overload]


@contextmanager
def measuring(threads: int, *models: nn.Module):
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


def _reason(error: Exception) -> str:
    line = next((text.strip() for text in str(error).splitlines() if text.strip()), "no message")
    return f"{type(error).__name__}: {line[:120]}"
