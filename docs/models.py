"""Writes docs/models.md from docs/results/models.json, which `make matrix` has filled."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parent
HEADER = """# Models

Written by `make matrix`: every pair was planned, trained for two steps with `MBUQuantize`, converted, compared bit by bit
with the trained network (`verify`), run at a second size, saved, loaded and compiled ("inductor", or "graph": captured
as one graph without generating code). Weights are random, inputs of the size given. One-bit is the share of all
multiply-adds; below 60 % `make_plan` warns.

| network | size | one-bit layers | one-bit share | bits compared | wrong | output differs by | file, MB (float) | compiled | stay float |
|---|---|---|---|---|---|---|---|---|---|
"""


def row(name: str, facts: dict) -> str:
    share = f"{facts['share']:.1%}" + (" **low**" if facts["share"] < 0.6 else "")
    stay = "; ".join(
        f"{count}x {reason}" for reason, count in sorted(facts["float"].items(), key=lambda x: -x[1])
    )
    if facts["other"]:
        stay += f"; linear and attention ({facts['other'] / (facts['other'] + facts['macs']):.0%} of the multiply-adds)"
    size = f"{facts['packed_bytes'] / 1e6:.2f} ({facts['float_bytes'] / 1e6:.1f})"
    compiled = "inductor" if facts["compiled"] == "inductor" else "graph"
    cells = [name, facts["size"], facts["layers"], share, f"{facts['bits']:,}", facts["wrong"], f"{facts['difference']:.1e}",
             size, compiled, stay]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    rows = json.loads((FOLDER / "results" / "models.json").read_text())
    table = "\n".join(row(name, facts) for name, facts in rows.items())
    (FOLDER / "models.md").write_text(HEADER + table + "\n")
