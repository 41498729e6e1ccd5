"""The page of `make gpu-bench`, from what was measured so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbu_ops.roofline import read_layers

from .gpu_layers import SHARE_OF_BANDWIDTH, SHARE_OF_PEAK
from .gpu_rivals import KINDS, bound_ms

# How many times faster than a rival the packed network should be, and the share of fp16's energy.
TARGETS = {"fp16": 2.0, "int8": 1.3, "fp8": 1.3}
SHARE_OF_ENERGY = 1 / 3
_NETWORK_COLUMNS = (
    "images", "rival", "one-bit ms per image", "its ms per image", "faster", "asked", "one-bit images/s", "its images/s",
    "one-bit J per image", "its J", "share of energy", "asked",
)  # fmt: skip


def page(results: dict[str, Any], shapes: Path) -> str:
    """Markdown.

    Args:
        results: see `gpu.measure`.
        shapes: the file of the network's layers.
    """
    lines = ["# One-bit networks on a GPU", "", "```sh", results["command"], "```", ""]
    if results["dry"]:
        lines += ["A dry run on the CPU at toy sizes: none of these numbers is a result.", ""]
    lines += [f"- {name}: {value}" for name, value in results["conditions"].items()]
    lines += _networks(results, shapes)
    lines += ["", "## Instructions on registers alone, and a copy in memory", ""]
    lines += ["| instruction | 10^12 operations/s |", "|---|---|"]
    for peak in results["peaks"]:
        lines.append(f"| {peak['instruction']} | {peak['why'] or _number(peak['rate'], 0)} |")
    lines += ["", f"Memory: {_number(results['copy'], 0)} 10^9 bytes/s, read and written.", ""]
    lines += _layers(results["layers"])
    lines += ["", "## The same sums in eight bits, as matrix products of torch", ""]
    lines += ["| rows x sum x columns | int8 us | fp8 us |", "|---|---|---|"]
    for row in results["products"]:
        cells = (row[kind] if isinstance(row[kind], str) else f"{row[kind]:.1f}" for kind in KINDS)
        lines.append(f"| {' x '.join(map(str, row['shape']))} | {' | '.join(_cell(c) for c in cells)} |")
    if results["dropped"]:
        lines += ["", "## Not measured", "", *(f"- {name}: {why}" for name, why in results["dropped"])]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "/")


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _met(value: bool | None) -> str:
    return "-" if value is None else "met" if value else "**not met**"


def _shape(row: dict[str, Any]) -> str:
    return f"{row['images']} x {row['size'][1]}x{row['size'][0]}"


def _networks(results: dict[str, Any], shapes: Path) -> list[str]:
    lines = [
        "", "## MBU-Net, width 64", "",
        "Both by torch.compile with CUDA graphs, in turn. Asked: twice as fast as fp16 with a third of its energy, 1.3 times as",
        "fast as int8 or fp8. No network of PyTorch's runs in eight bits on such a card; the rows \"int8\" and \"fp8\" are what its",
        "products alone take at least (below), without everything between them: a bound in its favour.",
        "", f"| {' | '.join(_NETWORK_COLUMNS)} |", "|" + "---|" * len(_NETWORK_COLUMNS),
    ]  # fmt: skip
    bounded = set()
    for row in sorted(results["networks"], key=lambda row: (-row["size"][0] * row["size"][1], row["images"])):
        ours, theirs = row["ours"], row["theirs"]
        asked = TARGETS.get(row["rival"])
        energy = None if ours["joules"] is None or not theirs["joules"] else ours["joules"] / theirs["joules"]
        least = None if energy is None or row["rival"] != "fp16" else energy <= SHARE_OF_ENERGY
        lines.append(
            f"| {_shape(row)} | {row['rival']} | {_times(ours)} | {_times(theirs)} | {row['faster']:.2f}x | "
            f"{_met(None if asked is None else row['faster'] >= asked)} | {ours['images_per_s']:.0f} | "
            f"{theirs['images_per_s']:.0f} | {_number(ours['joules'], 4)} | {_number(theirs['joules'], 4)} | "
            f"{_percent(energy)} | {_met(least)} |"
        )
        if row["note"]:
            lines.append(f"| | {_cell(row['note'])} |" + " |" * 10)
        if _shape(row) not in bounded:
            bounded.add(_shape(row))
            lines += _bounds(row, results["products"], shapes)
    return lines


def _times(side: dict[str, Any]) -> str:
    low, high = side["quartiles"]
    return f"{side['ms']:.3f} ({low:.3f} to {high:.3f})"


def _bounds(row: dict[str, Any], products: Sequence[dict[str, Any]], shapes: Path) -> list[str]:
    """Rows of what eight bits take at least, beside the packed network's time."""
    lines, images = [], row["images"]
    for kind in KINDS:
        least = bound_ms(read_layers(shapes, images, tuple(row["size"])), products, kind)
        if least is not None:
            faster = least / images / row["ours"]["ms"]
            lines.append(
                f"| {_shape(row)} | {kind}, lower bound | {row['ours']['ms']:.3f} | at least {least / images:.3f} | "
                f"{faster:.2f}x | {_met(faster >= TARGETS[kind])} | {row['ours']['images_per_s']:.0f} | "
                f"at most {1e3 * images / least:.0f} | | | | |"
            )
    return lines


def _layers(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## Layers, in a CUDA graph", "",
        "Every layer equals the reference on a small image and, by the kernel that is timed, the processor on a large one.",
        "Predicted: by the model of [roofline.md](../roofline.md) at the rates above, the stem at the published one of float32. The",
        "head is part of the last layer's launch. A layer should reach",
        f"{SHARE_OF_PEAK:.0%} of its instruction's measured rate, both products of masked weights counted, or",
        f"{SHARE_OF_BANDWIDTH:.0%} of the memory's bandwidth, whichever bounds it.", "",
        "| layer | images | kernel | median us | quartiles | predicted us | of the measured peak | of the bandwidth | bound by | asked |",
        "|" + "---|" * 10,
    ]  # fmt: skip
    for row in rows:
        low, high = row["quartiles"]
        lines.append(
            f"| {row['layer']} | {_shape(row)} | {row.get('kernel') or '-'} | {row['us']:.1f} | {low:.1f} to {high:.1f} | "
            f"{_number(row.get('predicted_us'), 1)} | {_percent(row.get('peak'))} | {_percent(row.get('bandwidth'))} | "
            f"{row.get('bound') or '-'} | {_met(row.get('met'))} |"
        )
    judged = [row["met"] for row in rows if row.get("met") is not None]
    return [*lines, "", f"{sum(judged)} of {len(judged)} reach what is asked."] if judged else lines
