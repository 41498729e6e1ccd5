"""Results of a benchmark for people: tables for the terminal, and the same as a page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..comparison import COMPILED, PACKED, PACKED_COMPILED, Comparison
from ..timing import ratio

_SUMMARY_COLUMNS = ("network", "packed ms", "vs float", "vs bf16", "vs int8")
_LAYER_COLUMNS = ("layer", "shape", "weights", "output", "ms", "quartiles ms", "MAC/ns", "ceiling")
_THREAD_COLUMNS = ("machine", "threads", "1 thread ms", "all threads ms", "faster")
_MEMORY_COLUMNS = ("candidate", "size", "peak of a call", "weights", "ms", "ns/pixel")


def show(results: dict[str, Any], console: Console) -> None:
    """Prints every table of `suite.run_jobs`' results."""
    for entry in results["compare"]:
        if "result" in entry:
            comparison = Comparison.from_dict(entry["result"])
            table = comparison.table()
            table.title = entry["title"]
            console.print(table)
            console.print(comparison.verdict, highlight=False)
    for entry in results["layers"]:
        if "result" in entry:
            # A terminal of 80 columns has no room for all; the page and the file have.
            columns = [i for i, name in enumerate(_LAYER_COLUMNS) if name not in ("output", "quartiles ms")]
            rows = [[row[index] for index in columns] for row in layer_rows(entry["result"])]
            names = [_LAYER_COLUMNS[index] for index in columns]
            _print(console, f"Layers: {entry['title']}", names, rows)
            console.print(layer_note(entry["result"]), highlight=False)
    for entry in results["threads"]:
        if "result" in entry:
            _print(console, f"Threads: {entry['title']}", _THREAD_COLUMNS, thread_rows(entry["result"]))
    if any("result" in entry for entry in results["memory"]):
        _print(console, "Memory", _MEMORY_COLUMNS, memory_rows(results["memory"]))
    if any("result" in entry for entry in results["compare"]):
        _print(console, "How many times faster than", _SUMMARY_COLUMNS, summary_rows(results["compare"]))
    for line in failures(results):
        console.print(line, style="yellow", highlight=False)


def markdown(results: dict[str, Any], plot: str) -> str:
    """The results as a page.

    Args:
        results: of `suite.run_jobs`.
        plot: file name of the figure beside the page.
    """
    lines = ["# Latency and memory on a CPU", "", "```sh", results["command"], "```", ""]
    lines += [f"- {name}: {value}" for name, value in results["conditions"].items()]
    lines += [
        "",
        "Networks have random weights, batch norms the statistics of random images. Every candidate is compared",
        "with the float network run eagerly before anything is timed, the packed network with its one-bit twin,",
        "bit for bit. Candidates run in turn, in one process; *speed* is against the fastest rival, as the median",
        "over rounds of the ratio within a round.",
        "",
        "How many times faster than the float network compiled, and than the fastest of each other kind:",
        "",
        *_markdown_table(_SUMMARY_COLUMNS, summary_rows(results["compare"])),
        "",
        f"![Latency of every candidate]({plot})",
    ]
    for entry in results["compare"]:
        lines += ["", f"## {entry['title']}", ""]
        if "result" in entry:
            comparison = Comparison.from_dict(entry["result"])
            lines += _markdown_table(
                ("candidate", "median ms", "quartiles ms", "speed", "notes"), comparison_rows(comparison)
            )
            lines += ["", comparison.verdict, f"Rounds: {comparison.conditions['repeats']}."]
        else:
            lines += [f"Not run: {entry['failed']}"]
    for entry in results["threads"]:
        if "result" in entry:
            lines += ["", f"## Threads: {entry['title']}", ""]
            lines += _markdown_table(_THREAD_COLUMNS, thread_rows(entry["result"]))
    for entry in results["layers"]:
        if "result" in entry:
            lines += ["", f"## Layers: {entry['title']}", ""]
            lines += _markdown_table(_LAYER_COLUMNS, layer_rows(entry["result"]))
            lines += ["", layer_note(entry["result"])]
    if any("result" in entry for entry in results["memory"]):
        lines += ["", "## Memory and time per pixel", ""]
        lines += _markdown_table(_MEMORY_COLUMNS, memory_rows(results["memory"]))
        lines += [
            "",
            "Peak: resident memory during one call above where it stood before, weights not counted.",
        ]
    lines += [f"\n{line}" for line in failures(results) if not line.startswith("compare")]
    return "\n".join(lines) + "\n"


def summary_rows(entries: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row per comparison that ran: the packed network against compiled float, bfloat16 and int8."""
    rows = []
    for entry in entries:
        if "result" not in entry:
            continue
        comparison = Comparison.from_dict(entry["result"])
        packed = comparison.timings[comparison.best_packed]
        row = [entry["title"], f"{packed.median:.1f}"]
        for kind in (COMPILED, "bfloat16", "int8"):
            rival = comparison.fastest(kind)
            row.append("-" if rival is None else f"{ratio(comparison.timings[rival], packed):.1f}x")
        rows.append(row)
    return rows


def comparison_rows(comparison: Comparison) -> list[list[str]]:
    """Candidate, median, quartiles, speed, notes."""
    rows = []
    for name, timing in comparison.timings.items():
        low, high = timing.spread
        notes = [comparison.formats[name]] if name in comparison.formats else []
        if name in comparison.differences and name not in (PACKED, PACKED_COMPILED):
            notes.append(f"{comparison.differences[name]:.0e} off float32")
        rows.append(
            [
                name,
                f"{timing.median:.1f}",
                f"{low:.1f} to {high:.1f}",
                f"{comparison.speed(name):.2f}x",
                ", ".join(notes),
            ]
        )
    rows += [[name, "-", "-", "-", f"not run: {reason}"] for name, reason in comparison.not_run.items()]
    return rows


def thread_rows(result: dict[str, Any]) -> list[list[str]]:
    """One row per state of the machine."""
    return [
        [
            state["state"], str(state["threads"]), f"{state['one_ms']:.1f}", f"{state['many_ms']:.1f}",
            f"{state['speedup']:.2f}x",
        ]
        for state in result["states"]
    ]  # fmt: skip


def layer_rows(result: dict[str, Any]) -> list[list[str]]:
    """One row per packed convolution, then their sum."""
    layers = result["layers"]
    rows = [
        [
            layer["name"], layer["shape"], layer["weights"], layer["output"], f"{layer['ms']:.3f}",
            f"{layer['quartiles_ms'][0]:.3f} to {layer['quartiles_ms'][1]:.3f}",
            f"{layer['rate']:.0f}", f"{layer['share']:.0%}",
        ]
        for layer in layers
    ]  # fmt: skip
    ms, macs = sum(layer["ms"] for layer in layers), sum(layer["macs"] for layer in layers)
    least = sum(layer["ms"] * layer["share"] for layer in layers)
    rows.append(["sum", "", "", "", f"{ms:.3f}", "", f"{macs / ms / 1e6:.0f}", f"{least / ms:.0%}"])
    return rows


def layer_note(result: dict[str, Any]) -> str:
    """What the ceilings are, and what the convolutions leave to everything else."""
    ms = sum(layer["ms"] for layer in result["layers"])
    return (
        f"Kernel {result['kernel']}. Ceiling: the kernel's best rate on layers made to suit it, timed in the same rounds, "
        f"{result['ceilings']['masked']:.0f} multiply-adds per ns masked and {result['ceilings']['binary']:.0f} binary. "
        f"The whole network takes {result['network_ms']:.1f} ms eagerly; its packed convolutions are {ms / result['network_ms']:.0%} of that."
    )


def memory_rows(entries: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row per candidate and size that ran."""
    found = [entry["result"] for entry in entries if "result" in entry]
    return [
        [
            result["candidate"], result["size"],
            "not known" if result["peak_bytes"] is None else f"{result['peak_bytes'] / 1e6:.0f} MB",
            f"{result['weight_bytes'] / 1e6:.1f} MB", f"{result['ms']:.1f}", f"{result['ns_per_pixel']:.0f}",
        ]
        for result in found
    ]  # fmt: skip


def failures(results: dict[str, Any]) -> list[str]:
    """What gave no result, and why."""
    return [
        f"{kind} {entry['title']}, not run: {entry['failed']}"
        for kind in ("compare", "threads", "layers", "memory")
        for entry in results[kind]
        if "failed" in entry
    ]


def _print(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=index < 2)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
