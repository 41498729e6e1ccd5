"""The rows of each study: name -> `Experiment`."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from .shapley import chains, subset_name
from .training import Experiment

# Table 1 of MBU-Net: one recipe and budget for all; every row but the first has binary activations.
_TABLE1: dict[str, dict[str, Any]] = {
    "full precision": {"layers": "float"},
    "int8 weights": {"layers": "int8"},
    "int4 weights": {"layers": "int4"},
    "int2 weights": {"layers": "int2"},
    "MBU-Net, 8 of 12 masked": {"layers": "planned"},
    "binary": {"layers": "binary"},
}

# One ingredient at a time, on top of the row above it where the name says so.
_SHORTCUTS = {"shortcuts": True}
_INGREDIENTS: dict[str, dict[str, Any]] = {
    "float": {"layers": "float"},
    "float, shortcuts": {"layers": "float", **_SHORTCUTS},
    "plain": {},
    "shortcuts": {**_SHORTCUTS},
    "plain, thermometer of 2": {"options": {"planes": 2}},
    "shortcuts, thermometer of 2": {**_SHORTCUTS, "options": {"planes": 2}},
    "shortcuts, RPReLU": {**_SHORTCUTS, "options": {"shift": True}},
    "shortcuts, batch norms measured anew": {**_SHORTCUTS, "options": {"reestimate": 32}},
    "plain, batch norms measured anew": {"options": {"reestimate": 32}},
    "shortcuts, annealed estimator": {**_SHORTCUTS, "options": {"estimator": "annealed"}},
    "shortcuts, ApproxSign": {**_SHORTCUTS, "options": {"estimator": "approx_sign"}},
    "shortcuts, weight decay 1e-2 on float layers": {**_SHORTCUTS, "weight_decay": 1e-2},
    "shortcuts, float start 25 %": {**_SHORTCUTS, "options": {"float_share": 0.25, "order": "all"}},
    "shortcuts, float start 25 %, distilled": {
        **_SHORTCUTS, "options": {"float_share": 0.25, "order": "all", "distill": 1.0},
    },
    "shortcuts, activations first 25 %": {**_SHORTCUTS, "options": {"weights_after": 0.25}},
    "shortcuts, averaged from 75 %": {**_SHORTCUTS, "options": {"average_from": 0.75}},
    "shortcuts, learned masks": {**_SHORTCUTS, "options": {"mask_rule": "learned"}},
    "shortcuts, analytic scale": {**_SHORTCUTS, "options": {"scale": "analytic"}},
    "shortcuts, no scale": {**_SHORTCUTS, "options": {"scale": "none"}},
    "shortcuts, blocks of 16x16, half absent": {
        **_SHORTCUTS, "options": {"mask_blocks": (16, 16), "block_density": 0.5, "masked": "all"},
    },
    "plain, added shortcuts": {"options": {"shortcuts": True}},
}  # fmt: skip


def repeat(rows: dict[str, Experiment], seeds: int) -> dict[str, Experiment]:
    """Each row under every seed, all rows of one seed before the next: a study that is stopped early is whole for
    the seeds that it has."""
    return {
        f"{name} #{seed}": replace(experiment, seed=seed)
        for seed in range(seeds)
        for name, experiment in rows.items()
    }


def table1(base: Experiment) -> dict[str, Experiment]:
    """Full precision, 8, 4 and 2 bits, masked and binary weights."""
    return {name: replace(base, **change) for name, change in _TABLE1.items()}


def ingredients(base: Experiment, only: tuple[str, ...] = ()) -> dict[str, Experiment]:
    """Baselines, and one ingredient at a time.

    Args:
        only: rows to run; all if empty.

    Raises:
        ValueError: `only` names a row that does not exist.
    """
    unknown = [name for name in only if name not in _INGREDIENTS]
    if unknown:
        raise ValueError(f"there are no rows {unknown}; choose from {'; '.join(_INGREDIENTS)}.")
    return {name: replace(base, **_INGREDIENTS[name]) for name in only or _INGREDIENTS}


def figure3(
    base: Experiment, blocks: tuple[str, ...], permutations: int, depth: int
) -> dict[str, Experiment]:
    """Which blocks are masked, drawn as chains (`shapley.chains`)."""
    subsets = chains(blocks, permutations, depth, random.Random(base.seed))
    return {
        subset_name(subset, blocks): replace(base, layers={block: "masked" for block in subset})
        for subset in subsets
    }


def pareto(base: Experiment, ranking: tuple[str, ...], counts: tuple[int, ...]) -> dict[str, Experiment]:
    """Float networks of smaller widths, and the one-bit network with more and more blocks masked, cheapest first."""
    widths = [
        width for width in (base.width, base.width // 2, base.width // 4, base.width // 8) if width >= 2
    ]
    rows = {f"float, width {width}": replace(base, layers="float", width=width) for width in widths}
    for count in counts:
        masked = {block: "masked" for block in ranking[:count]}
        rows[f"{count} of {len(ranking)} masked"] = replace(base, layers=masked)
    return rows
