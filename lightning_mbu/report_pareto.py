"""Accuracy against latency on the report page: what nothing else beats in both is on the front."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol, TypeVar

from .drawing import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, ticks


class Timed(Protocol):
    """What has a time in ms and a score."""

    @property
    def ms(self) -> float: ...
    @property
    def score(self) -> float: ...


T = TypeVar("T", bound=Timed)


def front_of(points: Sequence[T], cost: Callable[[T], float] = lambda point: point.ms) -> list[T]:
    """Points that no other beats in `cost`, by default time, and score; cheapest first."""
    found: list[T] = []
    for point in sorted(points, key=lambda p: (cost(p), -p.score)):
        if not found or point.score > found[-1].score:
            found.append(point)
    return found


@dataclass(frozen=True)
class ParetoPoint:
    """A network: its time for one image in ms, its score, and whether it is one-bit."""

    name: str
    ms: float
    score: float
    one_bit: bool


@dataclass(frozen=True)
class Pareto:
    """The plot.

    Args:
        points: at least one.
        score: name of the score, larger is better.
        note: a sentence below.

    Raises:
        ValueError: no point, or a time that is not above 0.
    """

    points: Sequence[ParetoPoint]
    score: str
    note: str = ""

    def __post_init__(self) -> None:
        if not self.points or any(
            not point.ms > 0 or not math.isfinite(point.score) for point in self.points
        ):
            raise ValueError(
                f"{len(self.points)} points: at least one is needed, each with a time above 0 and a score."
            )

    @property
    def front(self) -> list[ParetoPoint]:
        return front_of(self.points)


def _time_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two times, ms."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [f * 10.0**p for p in range(first, last + 1) for f in (1, 2, 5) if low <= f * 10.0**p <= high]


def pareto_html(pareto: Pareto) -> str:
    """The section of the page: a chart with numbered points on a logarithmic time axis, and the list of the numbers."""
    points = sorted(pareto.points, key=lambda p: p.ms)
    x_low, x_high = points[0].ms / 1.25, points[-1].ms * 1.25
    scores = [point.score for point in points]
    room = (max(scores) - min(scores)) * 0.15 or 0.01
    y_low, y_high = min(scores) - room, max(scores) + room

    def across(ms: float) -> float:
        return LEFT + math.log(ms / x_low) / math.log(x_high / x_low) * (WIDTH - LEFT - RIGHT)

    def up(score: float) -> float:
        return HEIGHT - BOTTOM - (score - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    name = f"{escape(pareto.score)} against latency"
    parts = [f'<svg class="chart pareto" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">']
    for y in ticks(y_low, y_high):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>'
        )
        parts.append(f'<text class="y tick" x="{LEFT - 8}" y="{up(y) + 5:.1f}">{y:g}</text>')
    for x in _time_ticks(x_low, x_high):
        parts.append(f'<text class="x tick" x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 20}">{x:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="x axis" x="{middle}" y="{HEIGHT - 8}">ms per image</text>')
    steps = [(across(point.ms), up(point.score)) for point in pareto.front]
    path = " ".join(
        f"{x:.1f},{y:.1f}" for k, (x, y) in enumerate(steps) for x, y in ([(x, steps[k - 1][1])] if k else []) + [(x, y)]
    )  # fmt: skip
    parts.append(f'<polyline class="front" points="{path}"/>')
    for number, point in enumerate(points, 1):
        x, y, kind = across(point.ms), up(point.score), "one-bit" if point.one_bit else "float"
        parts.append(
            f'<g class="point {kind}"><title>{escape(point.name)}: {point.score:.4g} in {point.ms:.4g} ms</title>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11"/><text x="{x:.1f}" y="{y + 4.5:.1f}">{number}</text></g>'
        )
    front = {id(point) for point in pareto.front}
    items = "".join(
        f'<li class="{"one-bit" if point.one_bit else "float"}"><b>{number}</b> {escape(point.name)}: '
        f"{point.score:.3f}, {point.ms:.3g} ms{' (front)' if id(point) in front else ''}</li>"
        for number, point in enumerate(points, 1)
    )
    return (
        f'<section><h2>Accuracy and speed</h2><figure class="curve"><h3>{escape(pareto.score)}</h3>'
        + "".join(parts) + f'</svg><ol class="points">{items}</ol>'
        + (f"<figcaption>{escape(pareto.note)}</figcaption>" if pareto.note else "") + "</figure></section>"
    )  # fmt: skip
