"""One figure of a benchmark: a panel of bars per comparison, then the layers against their ceiling."""

# The extra `bench` installs matplotlib.
# pyright: reportMissingImports=false

from __future__ import annotations

import io
from typing import Any

from ..comparison import PACKED, PACKED_COMPILED, Comparison
from .rivals import require

# Okabe and Ito's palette: told apart by readers with any common form of colour blindness.
_OURS, _RIVAL, _CEILING = "#0072B2", "#BBBBBB", "#D55E00"
_ROW_HEIGHT, _PANEL_WIDTH = 0.27, 6.2  # inches; a row holds one line of text at the figure's size


def draw(results: dict[str, Any], kind: str) -> bytes:
    """The figure as a file.

    Args:
        results: of `suite.run_jobs`.
        kind: `"svg"` or `"png"`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    require("matplotlib")
    import matplotlib
    from matplotlib.figure import Figure

    panels = [(_latency, e) for e in results["compare"] if "result" in e]
    panels += [(_layers, e) for e in results["layers"] if "result" in e]
    rows = -(-len(panels) // 2) or 1
    tallest = max((len(e["result"].get("layers") or e["result"]["timings_ms"]) for _, e in panels), default=1)
    # Text stays text, so that the figure can be searched and read aloud.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mbu", "font.size": 9}):
        figure = Figure(
            figsize=(2 * _PANEL_WIDTH, rows * (1.1 + _ROW_HEIGHT * tallest)), layout="constrained"
        )
        for index, (panel, entry) in enumerate(panels):
            axes = figure.add_subplot(rows, 2, index + 1)
            panel(axes, entry)
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"{results['conditions']['processor']}, torch {results['conditions']['torch']}")
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _latency(axes: Any, entry: dict[str, Any]) -> None:
    comparison = Comparison.from_dict(entry["result"])
    ordered = sorted(comparison.timings.items(), key=lambda item: -item[1].median)
    medians = [timing.median for _, timing in ordered]
    errors = [
        [timing.median - timing.spread[0] for _, timing in ordered],
        [timing.spread[1] - timing.median for _, timing in ordered],
    ]
    colours = [_OURS if name in (PACKED, PACKED_COMPILED) else _RIVAL for name, _ in ordered]
    bars = axes.barh([name for name, _ in ordered], medians, xerr=errors, color=colours, ecolor="#444444")
    axes.bar_label(bars, [f"{median:.1f}" for median in medians], padding=4)
    axes.set_xlim(0, 1.18 * max(m + e for m, e in zip(medians, errors[1], strict=True)))
    axes.set_xlabel("ms per image: median, quartiles")
    axes.set_title(entry["title"], loc="left")


def _layers(axes: Any, entry: dict[str, Any]) -> None:
    result = entry["result"]
    layers = result["layers"][::-1]
    # A layer may run several times; its number keeps the bars apart.
    names = [f"{len(layers) - i}. {layer['name']}  {layer['shape']}" for i, layer in enumerate(layers)]
    bars = axes.barh(names, [layer["rate"] for layer in layers], color=_OURS)
    axes.bar_label(bars, [f"{layer['share']:.0%}" for layer in layers], padding=3)
    for style, (kind, ceiling) in zip(("--", ":"), result["ceilings"].items(), strict=True):
        axes.axvline(ceiling, color=_CEILING, linestyle=style, label=f"ceiling of the kernel, {kind}")
    axes.set_xlim(0, 1.18 * max(result["ceilings"].values()))
    axes.set_xlabel(f"multiply-adds per ns, kernel {result['kernel']}")
    axes.set_title(f"Layers: {entry['title']}", loc="left")
    axes.legend(loc="lower right")
