"""The demo: train, convert, prove, compile, time, show."""

from __future__ import annotations

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
from ..config import PRESETS
from ..demo_settings import DemoSettings
from ..deploy import PackedModel, Verification, convert, verify
from ..models import MBUNet
from ..plan import make_plan
from ..prepare import prepare
from ..runs import quiet_lightning
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
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class FloatNet:
    """A float U-Net: of the one-bit networks' own width, or narrower, which makes it their honest rival."""

    title: str
    model: nn.Module
    epochs: list[dict[str, float]]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class Outcome:
    """All that the demo found out, before it is shown and written; of `floats` the first has the full width."""

    settings: DemoSettings
    data: CellsData
    floats: list[FloatNet]
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
    quiet_lightning()
    output = Path(settings.output)
    data = CellsData(
        settings.data, settings.layout, settings.size, settings.batch_size, settings.count, settings.seed
    )
    data.setup()
    console.print(data.describe(), highlight=False)

    floats = [_float(width, settings, data, console) for width in (settings.width, *settings.rivals)]
    networks = [
        _one_bit("one-bit with shortcuts", True, settings, data, console),
        _one_bit("one-bit plain chain", False, settings, data, console),
    ]
    example = next(iter(data.test_dataloader()))[0][:1]
    timings = _evaluate(floats, networks, data, example, settings, console)
    comparison = _full_width(settings, console)

    outcome = Outcome(settings, data, floats, networks, timings, comparison)
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


def _float(width: int, settings: DemoSettings, data: CellsData, console: Console) -> FloatNet:
    L.seed_everything(settings.seed, verbose=False)
    title = "U-Net" if width == settings.width else f"U-Net of width {width}"
    model = MBUNet(width=width)
    epochs = train(
        f"float {title}", model, data, epochs=settings.passes, lr=settings.learning_rate(False), console=console
    )  # fmt: skip
    return FloatNet(title, model.eval(), epochs)


def _one_bit(
    title: str, shortcuts: bool, settings: DemoSettings, data: CellsData, console: Console
) -> OneBit:
    L.seed_everything(settings.seed, verbose=False)
    model = MBUNet(
        width=settings.width, shortcuts=shortcuts, stream_dtype="bfloat16" if shortcuts else "float32"
    )
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
    floats: list[FloatNet],
    networks: list[OneBit],
    data: CellsData,
    example: Tensor,
    settings: DemoSettings,
    console: Console,
) -> dict[str, Timing]:
    """Dice and IoU of every network, eager and compiled, into its `scores`; their latencies."""
    loader = data.test_dataloader()
    calls: dict[str, Any] = {}
    rounds, found = 15, [*floats, *networks]
    with _steps(console, "compiling, evaluating, timing", 2 * len(found) + rounds) as done:
        torch.compiler.reset()
        before = torch.get_num_threads()
        torch.set_num_threads(settings.threads)
        try:
            for network in found:
                kind, model = (
                    ("packed", network.packed) if isinstance(network, OneBit) else ("float", network.model)
                )
                compiled = torch.compile(model, dynamic=False)
                for name, call in ((kind, model), (f"{kind} compiled", compiled)):
                    network.scores[name] = evaluate(call, loader)
                    calls[f"{network.title}, {name}"] = lambda call=call: call(example)
                    done()
            return time_interleaved(calls, repeats=rounds, after_round=done)
        finally:
            torch.set_num_threads(before)


def _full_width(settings: DemoSettings, console: Console) -> Comparison:
    """The network with shortcuts at full width, as `MBUQuantize` makes it without options, against its float twin;
    weights are random, which no kernel's speed depends on."""
    torch.manual_seed(settings.seed)
    size = settings.bench_size
    float_model = MBUNet(width=settings.bench_width, shortcuts=True).eval()
    example = torch.randn(1, 3, size, size)
    one_bit = MBUNet(width=settings.bench_width, shortcuts=True, stream_dtype="bfloat16").eval()
    one_bit.load_state_dict(float_model.state_dict())
    title = f"timing the full width, {settings.bench_width} channels at {size} pixels"
    with _steps(console, title, 6) as done:
        plan = make_plan(one_bit, example, planes=PRESETS["default"].planes)
        packed = convert(prepare(one_bit, plan), example)
        return compare(
            float_model, packed, example, threads=settings.threads, report=lambda candidate: done()
        )
