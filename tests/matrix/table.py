"""docs/models.md: the results of the matrix as a table."""

from __future__ import annotations

from collections import Counter
from typing import Any

HEAD = """# Which smp models

Written by `make matrix` from [results/models.json](results/models.json). Each row is one
`segmentation_models_pytorch` network that was planned, trained for two steps with `MBUQuantize`, converted, compared
bit by bit with the trained network at the size below, run at a second size, saved and loaded, compiled by
`torch.compile` as one graph and exported by `torch.export`; {packaged} of them by Inductor, and into `.pt2` packages.
{count} networks of {architectures} architectures and {encoders} encoders; {bits:.1f} million activation bits compared,
{wrong} wrong, {rounded} different by rounding.

- *one-bit*: share of the multiply-adds at this size that becomes one-bit; below 60 % `make_plan` warns.
- *layers*: convolutions and linear layers that become one-bit; *bits out*: those whose output leaves as bits, no float in between.
- *stay float*: how many convolutions, and why; *elsewhere*: multiply-adds of linear layers and attention.
- *MB*: parameters and buffers of the float network, and the packed file, which holds all of its float rest.
- *sizes*: height and width must be multiples of this. *export*: whether they are free in an exported program.

| model | pixels | one-bit | layers (bits out) | stay float | elsewhere | MB | sizes | export |
|---|---|---|---|---|---|---|---|---|
"""

LIMITS = """
## Limits

- `decoder_use_norm="inplace"` needs the package `inplace_abn`, which pip compiles; without it smp raises a `RuntimeError`
  that names it. `prepare` exchanges its layers for batch norm and activation, so that training takes the memory of these.
- Squeeze-excite and scSE multiply by averages over the image. The packed network adds floats that lie channels last, the
  trained one contiguous ones, so such an average may be rounded otherwise and flip a bit that lies within that rounding of
  its threshold. `verify` sets that bit in the trained network and goes on; a row tells how many bits differ in all.
- `decoder_use_norm="layernorm"` is refused by smp's own decoders, whose images are not laid out as layer norm wants
  them; `make_plan` says so.
"""


def models_page(rows: dict[str, dict[str, Any]], cases: list[str]) -> str:
    """The page as Markdown.

    Args:
        rows: name of a case -> what `test_matrix` has noted.
        cases: names of all; those without a row are listed below the table.
    """
    pairs = [name.partition(" ")[0].split("/") for name in rows]
    head = HEAD.format(
        count=len(rows),
        architectures=len({architecture for architecture, _ in pairs}),
        encoders=len({encoder for _, encoder in pairs}),
        bits=sum(row["bits"] for row in rows.values()) / 1e6,
        wrong=sum(row["wrong"] for row in rows.values()),
        rounded=sum(row["rounded"] for row in rows.values()),
        packaged=sum(row.get("packaged", False) for row in rows.values()),
    )
    page = head + "".join(_line(name, row) for name, row in rows.items())
    waiting = ", ".join(name for name in cases if name not in rows)
    return page + (f"\nNot run yet: {waiting}.\n" if waiting else "") + LIMITS


def _line(name: str, row: dict[str, Any]) -> str:
    short: Counter[str] = Counter()
    for reason, count in row["float"].items():
        short[_short(reason)] += count
    total = row["macs"] + row["other"]
    sizes = f"{row['float_bytes'] / 1e6:.1f} -> {row['packed_bytes'] / 1e6:.2f}"
    told = f" ({row['rounded']} bits by rounding)" if row["rounded"] else ""
    cells = [
        name.replace("|", "\\|") + told, str(row["size"]), f"{row['share']:.1%}", f"{row['layers']} ({row['bits_out']})",
        ", ".join(f"{count} {reason}" for reason, count in short.most_common()),
        f"{row['other'] / total:.1%}" if row["other"] else "", sizes,
        str(row["multiple"]) if row["multiple"] > 1 else "any", "free" if row["free_size"] else "fixed",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |\n"


def _short(reason: str) -> str:
    """The reason in a word or two: `depthwise: too few products per output to gain` -> `depthwise`."""
    if "fewer than min_channels" in reason:
        return "thin"
    return reason.partition(":")[0]
