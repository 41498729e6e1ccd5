"""What the demo shows: tables in the terminal, a page with curves and pictures, results as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from ..atomic import write_atomically
from ..comparison import COMPILED, PACKED_COMPILED
from ..deploy import save
from ..page import layer_bars
from ..report import Curve, Pareto, ParetoPoint, PhaseBand, PictureRow, ReportTable, write_report
from ..schedule import Phases
from ..timing import conditions, ratio
from .data import standardise

if TYPE_CHECKING:
    from .run import FloatNet, OneBit, Outcome

_PICTURES = 6
_COLUMNS = ("network", "Dice", "IoU", "size", "latency")


def result_rows(outcome: Outcome) -> list[list[str]]:
    """One row of text per network and way of running it; columns as in `_COLUMNS`."""

    def row(label: str, scores: dict[str, float], size: int) -> list[str]:
        latency = f"{outcome.timings[label].median:.2f} ms"
        return [label, f"{scores['dice']:.4f}", f"{scores['iou']:.4f}", f"{size / 1e6:.3f} MB", latency]

    sizes = [_state_bytes(network.model) for network in outcome.floats]
    sizes += [network.verification.packed_bytes for network in outcome.networks]
    return [
        row(f"{network.title}, {name}", scores, size)
        for network, size in zip((*outcome.floats, *outcome.networks), sizes, strict=True)
        for name, scores in network.scores.items()
    ]


def _state_bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def results(outcome: Outcome) -> dict[str, Any]:
    """Plain types, for JSON. Folders are left out: they say nothing about the numbers."""
    settings = {
        key: value for key, value in vars(outcome.settings).items() if key not in ("data", "output", "lr")
    }
    settings["epochs"] = outcome.settings.passes
    settings["learning_rates"] = [outcome.settings.learning_rate(shortcuts) for shortcuts in (False, True)]
    one_bit = {}
    for network in outcome.networks:
        check = network.verification
        one_bit[network.title] = {
            "scores": network.scores,
            "mismatches": check.mismatches,
            "at_rounding": check.at_rounding,
            "float_bytes": check.float_bytes,
            "packed_bytes": check.packed_bytes,
        }
    return {
        "data": outcome.data.describe(),
        "settings": settings,
        "float": {network.title: network.scores for network in outcome.floats},
        "one_bit": one_bit,
        "latency_ms": {name: timing.median for name, timing in outcome.timings.items()},
        "full_width": outcome.comparison.to_dict(),
        "full_width_speedup": full_width_speedup(outcome),
        "conditions": conditions(torch.device("cpu"), outcome.settings.threads),
    }


def honest_rival(outcome: Outcome) -> str:
    """A sentence: the best float network that is as fast as the best packed one, and what that one scores."""

    def fastest(network: Any) -> tuple[float, float]:
        name = min(network.scores, key=lambda name: outcome.timings[f"{network.title}, {name}"].median)
        return outcome.timings[f"{network.title}, {name}"].median, network.scores[name]["dice"]

    best = max(outcome.networks, key=lambda network: fastest(network)[1])
    ms, dice = fastest(best)
    packed = f"{best.title}, packed: Dice {dice:.3f} in {ms:.2f} ms"
    rivals = [network for network in outcome.floats if fastest(network)[0] <= ms]
    if not rivals:
        return f"{packed}. No float network here is as fast; the narrowest takes {fastest(outcome.floats[-1])[0]:.2f} ms."
    rival = max(rivals, key=lambda network: fastest(network)[1])
    rival_ms, rival_dice = fastest(rival)
    return f"{packed}. The best float network that is as fast, {rival.title}: Dice {rival_dice:.3f} in {rival_ms:.2f} ms."


def full_width_speedup(outcome: Outcome) -> float:
    """torch.compile(float) over torch.compile(packed), float32."""
    timings = outcome.comparison.timings
    return ratio(timings[COMPILED], timings[PACKED_COMPILED])


def print_tables(outcome: Outcome, console: Console, output: Path) -> None:
    """The end of the demo in the terminal."""
    settings = outcome.settings
    table = Table(title=f"Test images, {settings.size}x{settings.size} pixels, width {settings.width}")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in result_rows(outcome):
        table.add_row(*row)
    console.print(table)
    console.print(
        f"MBUNet with shortcuts at width {settings.bench_width}, {settings.bench_size}x{settings.bench_size} pixels:",
        highlight=False,
    )
    console.print(outcome.comparison.table())
    console.print(
        f"torch.compile(packed) is {full_width_speedup(outcome):.1f}x as fast as torch.compile(float) in float32 "
        f"on {settings.threads} thread{'s' * (settings.threads > 1)}.",
        highlight=False,
    )
    for network in outcome.networks:
        check = network.verification
        lost = outcome.floats[0].scores["float"]["dice"] - network.scores["packed"]["dice"]
        console.print(
            f"{network.title}: Dice {lost:.3f} below float, {check.mismatches} bit mismatches, "
            f"{check.at_rounding} within one rounding, {check.float_bytes / check.packed_bytes:.1f}x smaller",
            highlight=False,
        )
    console.print(honest_rival(outcome), highlight=False)
    console.print(f"Pictures and curves: {output / 'report.html'}", highlight=False)


def bands(phases: Phases, epochs: int) -> tuple[PhaseBand, ...]:
    """The phases of a run as bands over its epochs; phases of no length are left out."""
    edges = {
        "float": (0.0, phases.float_share),
        "incremental": (phases.float_share, phases.quantized_start),
        "quantized": (phases.quantized_start, 1.0),
    }
    return tuple(
        PhaseBand(name, start * epochs, end * epochs) for name, (start, end) in edges.items() if end > start
    )


def training_curves(floats: list[FloatNet], networks: list[OneBit]) -> list[Curve]:
    """Loss, validation Dice, learning rate and health of the one-bit networks, over epochs."""
    runs = {network.title: network.epochs for network in (*floats, *networks)}
    phases = bands(networks[0].phases, len(floats[0].epochs))

    def curve(title: str, key: str, label: str, note: str = "") -> Curve:
        series = {
            name: [(number, values[key]) for number, values in enumerate(epochs, 1) if key in values]
            for name, epochs in runs.items()
        }
        return Curve(
            title, {name: points for name, points in series.items() if points}, "epoch", label, phases, note
        )

    return [
        curve(
            "Loss on the training images",
            "train/loss",
            "BCE + soft Dice",
            "Bands are the one-bit networks' phases.",
        ),
        curve("Dice on the validation images", "val/dice", ""),
        curve("Learning rate", "lr", ""),
        curve("Share of weights that changed state in the epoch", "mbu/flip_ratio", ""),
        curve("Share of weights that is quantized", "mbu/binary_fraction", ""),
    ]


def pareto(outcome: Outcome) -> Pareto:
    """Dice of the test images against latency, every network eager and compiled."""
    points = [
        ParetoPoint(label, outcome.timings[label].median, scores["dice"], name.startswith("packed"))
        for network in (*outcome.floats, *outcome.networks)
        for name, scores in network.scores.items()
        for label in [f"{network.title}, {name}"]
    ]
    size = outcome.settings.size
    note = f"Test images, {size}x{size} pixels, width {outcome.settings.width} unless said. {honest_rival(outcome)}"
    return Pareto(points, "Dice", note)


@torch.no_grad()
def pictures(outcome: Outcome, network: OneBit) -> list[PictureRow]:
    """A few test images, evenly spread, with both networks' masks."""
    split = outcome.data.splits["test"]
    chosen = np.linspace(0, len(split.images) - 1, min(_PICTURES, len(split.images))).astype(int)
    rows = []
    for index in chosen:
        image = standardise(split.images[index])[None]
        by_float, by_packed = (
            (model(image) > 0)[0, 0].numpy() for model in (outcome.floats[0].model, network.packed)
        )
        rows.append(
            PictureRow(
                split.images[index],
                split.masks[index].astype(bool),
                by_packed,
                by_float,
                split.names[index][:12],
            )
        )
    return rows


def write(outcome: Outcome, output: Path) -> None:
    """Packed networks, page and JSON; each file is complete or not there."""
    settings, comparison, best = outcome.settings, outcome.comparison, outcome.networks[0]
    check = best.verification
    summary = [
        ("Dice, float", f"{outcome.floats[0].scores['float']['dice']:.3f}"),
        ("Dice, packed", f"{best.scores['packed']['dice']:.3f}"),
        ("wrong bits", str(sum(network.verification.mismatches for network in outcome.networks))),
        ("smaller", f"{check.float_bytes / check.packed_bytes:.1f}x"),
        ("faster at full width", f"{full_width_speedup(outcome):.1f}x"),
    ]
    times = [[name, f"{t.median:.2f}", f"{t.min:.2f}"] for name, t in comparison.timings.items()]
    tables = [
        ReportTable("Test images", _COLUMNS, result_rows(outcome), outcome.data.describe()),
        ReportTable(
            f"MBUNet with shortcuts, width {settings.bench_width}, {settings.bench_size}x{settings.bench_size} pixels",
            ("candidate", "median ms", "min ms"), times, comparison.verdict,
        ),
    ]  # fmt: skip
    trained = {"data": outcome.data.describe(), "epochs": settings.passes,
               "width": settings.width, "seed": settings.seed}  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    for name, network in zip(("shortcuts.mbu", "plain.mbu"), outcome.networks, strict=True):
        save(network.packed, output / name)
    write_report(
        output / "report.html",
        title="Masked-binary segmentation of cell nuclei",
        summary=summary,
        tables=tables,
        curves=training_curves(outcome.floats, outcome.networks),
        pictures=pictures(outcome, best),
        pareto=pareto(outcome),
        layers=layer_bars(best.packed),
        conditions={**comparison.conditions, **trained},
    )
    write_atomically(output / "results.json", json.dumps(results(outcome), indent=1).encode())
