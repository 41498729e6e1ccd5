"""The demo: train, convert, prove, compile, time, show."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from ..benchmark import compare
from ..callback import MBUQuantize
from ..comparison import Comparison
from ..demo_settings import DemoSettings
from ..deploy import PackedModel, Verification, convert, verify
from ..models import MBUNet
from ..plan import make_plan
from ..prepare import prepare
from ..schedule import Phases
from ..timing import Timing, time_interleaved
from . import show
from .data import CellsData
from .train import evaluate, train


@dataclass
class OneBit:
    """A trained one-bit network and everything that was found out about it."""

    title: str
    packed: PackedModel
    verification: Verification
    epochs: list[dict[str, float]]
    phases: Phases
    compiled: Any = None
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class Outcome:
    """All that the demo found out, before it is shown and written."""

    settings: DemoSettings
    data: CellsData
    float_model: nn.Module
    float_epochs: list[dict[str, float]]
    float_scores: dict[str, dict[str, float]]
    networks: list[OneBit]
    timings: dict[str, Timing]
    comparison: Comparison


def run_demo(settings: DemoSettings, console: Console | None = None) -> dict[str, Any]:
    """Runs the whole demo and returns its results as plain types; files appear only once all is done.

    Raises:
        ValueError, FileNotFoundError: settings or data that cannot work.
        KeyboardInterrupt: stopped; nothing has been written.
    """
    console = console or Console()
    _quiet()
    output = Path(settings.output)
    data = CellsData(
        settings.data, settings.layout, settings.size, settings.batch_size, settings.count, settings.seed
    )
    data.setup()
    console.print(data.describe(), highlight=False)

    L.seed_everything(settings.seed, verbose=False)
    float_model = MBUNet(width=settings.width)
    float_epochs = train(
        "float U-Net", float_model, data, epochs=settings.passes, lr=settings.learning_rate(False), console=console
    )  # fmt: skip
    float_model.eval()
    networks = [
        _one_bit("one-bit with shortcuts", True, settings, data, console),
        _one_bit("one-bit plain chain", False, settings, data, console),
    ]
    example = next(iter(data.test_dataloader()))[0][:1]
    float_scores, timings = _evaluate(float_model, networks, data, example, settings, console)
    comparison = _full_width(settings, console)

    outcome = Outcome(
        settings, data, float_model, float_epochs, float_scores, networks, timings, comparison
    )  # fmt: skip
    show.write(outcome, output)
    show.print_tables(outcome, console, output)
    return show.results(outcome)


@contextmanager
def _steps(console: Console, title: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar of `total` steps; yields what advances it by one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def _quiet() -> None:
    """Lightning's and torch's advice is for the user's own project, not for a demo."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*(LeafSpec|treespec|litlogger|No CUDA runtime).*")


def _one_bit(
    title: str, shortcuts: bool, settings: DemoSettings, data: CellsData, console: Console
) -> OneBit:
    L.seed_everything(settings.seed, verbose=False)
    model = MBUNet(width=settings.width, shortcuts=shortcuts)
    quantizer = MBUQuantize(input_size=(settings.size, settings.size))
    epochs = train(
        title, model, data, epochs=settings.passes, lr=settings.learning_rate(shortcuts), quantizer=quantizer,
        console=console,
    )  # fmt: skip
    images = torch.cat([batch for batch, _ in data.test_dataloader()])
    with _steps(console, "converting, proving every test image", 2) as done:
        packed = convert(model, images[:1])
        done()
        verification = verify(model, packed, images)
        done()
    console.print(
        f"{title}: {verification.mismatches} wrong bits of {sum(x.bits for x in verification.layers):,} on "
        f"{len(images)} test images, {verification.float_bytes / verification.packed_bytes:.1f}x smaller",
        highlight=False,
    )
    return OneBit(title, packed, verification, epochs, quantizer.phases)


@torch.no_grad()
def _evaluate(
    float_model: nn.Module,
    networks: list[OneBit],
    data: CellsData,
    example: Tensor,
    settings: DemoSettings,
    console: Console,
) -> tuple[dict[str, dict[str, float]], dict[str, Timing]]:
    """Dice, IoU and latency of every network, eager and compiled."""
    loader = data.test_dataloader()
    calls: dict[str, Any] = {}
    float_scores = {}
    rounds, candidates = 15, 2 + 2 * len(networks)
    with _steps(console, "compiling, evaluating, timing", candidates + rounds) as done:
        torch.compiler.reset()
        before = torch.get_num_threads()
        torch.set_num_threads(settings.threads)
        try:
            compiled = torch.compile(copy.deepcopy(float_model), dynamic=False)
            for name, model in (("float", float_model), ("float compiled", compiled)):
                float_scores[name] = evaluate(model, loader)
                calls[name] = lambda model=model: model(example)
                done()
            for network in networks:
                network.compiled = torch.compile(network.packed, dynamic=False)
                for name, model in (("packed", network.packed), ("packed compiled", network.compiled)):
                    network.scores[name] = evaluate(model, loader)
                    calls[f"{network.title}, {name}"] = lambda model=model: model(example)
                    done()
            timings = time_interleaved(calls, repeats=rounds, after_round=done)
        finally:
            torch.set_num_threads(before)
    return float_scores, timings


def _full_width(settings: DemoSettings, console: Console) -> Comparison:
    """`MBUNet` at full width against its float twin; weights are random, which no kernel's speed depends on."""
    torch.manual_seed(settings.seed)
    size = settings.bench_size
    float_model = MBUNet(width=settings.bench_width).eval()
    example = torch.randn(1, 3, size, size)
    one_bit = copy.deepcopy(float_model)
    title = f"timing the full width, {settings.bench_width} channels at {size} pixels"
    with _steps(console, title, 6) as done:
        packed = convert(prepare(one_bit, make_plan(one_bit, example)), example)
        return compare(
            float_model, packed, example, threads=settings.threads, report=lambda candidate: done()
        )
