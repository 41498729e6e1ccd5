"""Pictures of the report page without a plotting library: line charts as inline SVG, images as PNG in base64.

Charts carry class names instead of colours, so that the page's style sheet decides them, for light and dark
alike.
"""

from __future__ import annotations

import base64
import colorsys
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

# Drawing area in SVG units; the browser scales it to the page. Margins hold the tick labels at the size that
# the style sheet uses on phones, where everything shrinks but the text must not.
WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 30, 52
LETTER = 7.2  # width of a letter of a phase's label; labels that do not fit give way to the phase's number
MAX_DOTS = 60  # more points than this in a line run together, so only the line is drawn
COLOURS = 6  # distinct lines in the style sheet
_GOLDEN = 0.618034  # steps of the hue by the golden ratio keep any number of classes apart

# Okabe and Ito's palette: told apart by readers with any common form of colour blindness.
FALSE_POSITIVE, FALSE_NEGATIVE, TRUE_POSITIVE, NOTHING = (
    (230, 120, 0),
    (86, 180, 233),
    (236, 239, 241),
    (24, 28, 32),
)


@dataclass(frozen=True)
class PhaseBand:
    """A stretch of the horizontal axis with a name, as a phase of training."""

    label: str
    start: float
    end: float


@dataclass(frozen=True)
class Curve:
    """A chart of one or more lines; points with a value that is not finite are left out.

    Args:
        title: above the chart.
        series: name of a line -> its (x, y) points.
        x_label, y_label: what the axes show, with unit.
        phases: shaded bands behind the lines.
        note: a sentence below.
    """

    title: str
    series: dict[str, Sequence[tuple[float, float]]]
    x_label: str = "epoch"
    y_label: str = ""
    phases: Sequence[PhaseBand] = field(default=())
    note: str = ""


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `wanted` of them, steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    # The tolerance keeps a tick that rounding has put a hair outside.
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _limits(values: list[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * margin or max(abs(high), 1.0) * margin or margin
    return low - room, high + room


def curve_svg(curve: Curve, names: Sequence[str] = ()) -> str:
    """The chart as an `<svg>` element for a page that styles it.

    Args:
        curve: what to draw.
        names: of all lines of a page, in the order of their colours; those of this chart where none are given.

    Raises:
        ValueError: no line has a finite point.
    """
    lines = {
        name: [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in curve.series.items()
    }
    points = [point for line in lines.values() for point in line]
    if not points:
        raise ValueError(
            f"Curve {curve.title!r} has no finite point in {list(lines) or 'no series'}. Leave it out."
        )
    edges = [edge for phase in curve.phases for edge in (phase.start, phase.end)]
    x_low, x_high = _limits([x for x, _ in points] + edges, 0.0)
    y_low, y_high = _limits([y for _, y in points], 0.06)
    if x_high <= x_low:
        x_low, x_high = x_low - 0.5, x_high + 0.5

    def across(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(curve.title)}">'
    ]
    for number, phase in enumerate(curve.phases, start=1):
        left, right = across(phase.start), across(phase.end)
        label = phase.label if len(phase.label) * LETTER < right - left - 8 else str(number)
        parts.append(
            f'<g class="phase phase-{(number - 1) % 3 + 1}"><title>{escape(phase.label)}</title>'
            f'<rect x="{left:.1f}" y="{TOP}" width="{max(right - left, 0):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>'
            f'<text x="{(left + right) / 2:.1f}" y="{TOP - 10}">{escape(label)}</text></g>'
        )
    for y in ticks(y_low, y_high):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>'
        )
        parts.append(f'<text class="y tick" x="{LEFT - 8}" y="{up(y) + 5:.1f}">{y:g}</text>')
    whole = all(x.is_integer() for x, _ in points)  # no half epochs
    for x in [x for x in ticks(x_low, x_high, 8) if not whole or float(x).is_integer()]:
        parts.append(f'<text class="x tick" x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 20}">{x:g}</text>')
    parts.append(
        f'<text class="x axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}">'
        f"{escape(curve.x_label)}</text>"
    )
    order = list(names or lines)
    for name, line in lines.items():
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        parts.append(f'<g class="line line-{order.index(name) % COLOURS + 1}"><polyline points="{path}"/>')
        if len(line) <= MAX_DOTS:
            for x, y in line:
                tip = f"{name}: {y:.4g} at {curve.x_label} {x:g}"
                parts.append(
                    f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3">'
                    f"<title>{escape(tip)}</title></circle>"
                )
        parts.append("</g>")
    return "".join(parts) + "</svg>"


def png(image: np.ndarray) -> bytes:
    """Encode an image as PNG.

    Args:
        image: uint8 [H, W, 3].

    Raises:
        ValueError: another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"Got an image of {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3].")
    height, width, _ = image.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    # Every row starts with its filter: 0, none. Eight bits a channel, colour type 2 (RGB).
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def data_uri(image: np.ndarray) -> str:
    """The image as an address that holds it, for `<img src>`; image as in `png`."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def dice(prediction: np.ndarray, mask: np.ndarray) -> float:
    """Overlap `2 |A and B| / (|A| + |B|)` of two bool [H, W] masks; 1 where both are empty."""
    total = int(prediction.sum()) + int(mask.sum())
    return 1.0 if total == 0 else 2 * int((prediction & mask).sum()) / total


def errors_image(prediction: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Colour the right and wrong pixels of a prediction; bool [H, W] twice -> uint8 [H, W, 3]."""
    image = np.empty((*mask.shape, 3), np.uint8)
    image[:] = NOTHING
    image[prediction & mask] = TRUE_POSITIVE
    image[prediction & ~mask] = FALSE_POSITIVE
    image[~prediction & mask] = FALSE_NEGATIVE
    return image


def palette(classes: int) -> np.ndarray:
    """A colour for each class, uint8 `[classes, 3]`."""
    colours = [colorsys.hsv_to_rgb((0.95 + k * _GOLDEN) % 1, 0.75, 0.95) for k in range(classes)]
    return (np.array(colours) * 255).round().astype(np.uint8)
