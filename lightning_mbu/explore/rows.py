"""The rows of each study: name -> `Experiment`."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations
from typing import Any

from .bits import draw_kinds
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

# What a row's name consists of: what each part changes of an `Experiment`, "options" those of `MBUQuantize`.
_PARTS: dict[str, dict[str, Any]] = {
    "float": {"layers": "float"},
    "plain": {},
    "shortcuts": {"shortcuts": True},
    "bfloat16 shortcuts": {"shortcuts": True, "stream_dtype": "bfloat16"},
    "int8 shortcuts": {"shortcuts": True, "stream_dtype": "int8"},
    "added shortcuts": {"options": {"shortcuts": True}},
    "RPReLU": {"options": {"shift": True}},
    "thermometer of 2": {"options": {"planes": 2}},
    "thermometer of 3": {"options": {"planes": 3}},
    "learned thresholds": {"options": {"thresholds": "learned"}},
    "thresholds at zero": {"options": {"thresholds": "zero"}},
    "batch norms measured anew": {"options": {"reestimate": 32}},
    "clipped estimator": {"options": {"estimator": "clipped"}},
    "ApproxSign": {"options": {"estimator": "approx_sign"}},
    "tanh estimator": {"options": {"estimator": "tanh"}},
    "annealed estimator": {"options": {"estimator": "annealed"}},
    "float start 25 %": {"options": {"float_share": 0.25, "order": "all"}},
    "distilled": {"options": {"distill": 1.0}},
    "attention maps distilled": {"options": {"distill": 1.0, "distill_features": ("down4", "up2", "up4")}},
    "taught by its float twin": {"taught": True},
    "started from its float twin": {"started": True},
    "activations first 25 %": {"options": {"weights_after": 0.25}},
    "one by one over 50 %": {"options": {"incremental_share": 0.5}},
    "one by one over 50 %, backwards": {"options": {"incremental_share": 0.5, "order": "reverse"}},
    "one by one over 50 %, cheapest first": {"options": {"incremental_share": 0.5, "order": "cost"}},
    "averaged from 75 %": {"options": {"average_from": 0.75}},
    "all masked": {"options": {"masked": "all"}},
    "none masked": {"options": {"masked": "none"}},
    "learned masks": {"options": {"mask_rule": "learned"}},
    "half of each layer masked": {"options": {"mask_rule": "sparsity", "sparsity": 0.5}},
    **{
        f"{share} of all blocks of {side}x{side} absent": {
            "options": {"mask_blocks": (side, side), "block_density": present, "masked": "all"}
        }
        for side in (16, 32)
        for share, present in (("half", 0.5), ("three quarters", 0.25), ("nine tenths", 0.1))
    },
    "blocks of all layers ranked": {"options": {"block_shares": "ranked"}},
    "blocks thinned out over 50 %": {"options": {"block_ramp": 0.5}},
    "group lasso 1e-4": {"options": {"block_regularizer": 1e-4}},
    "analytic scale": {"options": {"scale": "analytic"}},
    "no scale": {"options": {"scale": "none"}},
    "latent weights within 1": {"options": {"clip": 1.0}},
    "weight decay 1e-2 on float layers": {"weight_decay": 1e-2},
    "weight decay 1e-2 on latent weights": {"latent_decay": 1e-2},
    "scales and thresholds at a tenth of the rate": {"extras_lr": 0.1},
    "float layers at a tenth of the rate": {"float_lr": 0.1},
    "warm-up of 10 %": {"warmup": 0.1},
    "rate 1e-3": {"lr": 1e-3},
    "rate 3e-3": {"lr": 3e-3},
    "rate 5e-3": {"lr": 5e-3},
    "rate 1e-2": {"lr": 1e-2},
    "rate 2e-2": {"lr": 2e-2},
    "batches of 4": {"batch_size": 4},
    **{f"width {width}": {"width": width} for width in (2, 4, 8, 32, 64)},
}
_SEPARATOR = " + "

# What `mbu study ingredients` runs if it is not told: baselines, and one ingredient at a time on top of shortcuts.
_BASELINES = ("float", "float + shortcuts", "plain", "shortcuts", "bfloat16 shortcuts", "int8 shortcuts")
_PLAIN_TOO = ("added shortcuts", "thermometer of 2", "batch norms measured anew", "ApproxSign")
# Ingredients that act on another one.
_NEEDS = {
    **dict.fromkeys(("distilled", "attention maps distilled"), "float start 25 %"),  # a teacher
    **dict.fromkeys(
        ("blocks of all layers ranked", "blocks thinned out over 50 %", "group lasso 1e-4"),
        "three quarters of all blocks of 16x16 absent",
    ),
}


def _default_rows() -> list[str]:
    single = [
        part
        for part in _PARTS
        if part not in (*_BASELINES, "added shortcuts") and not part.startswith("width")
    ]
    rows = [_SEPARATOR.join(filter(None, ("shortcuts", _NEEDS.get(part), part))) for part in single]
    return [*_BASELINES, *(f"plain{_SEPARATOR}{part}" for part in _PLAIN_TOO), *rows]


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
    """Rows named after what they are made of, such as `"shortcuts + ApproxSign + RPReLU"`.

    Args:
        only: rows to run; if empty, baselines and one ingredient at a time.

    Raises:
        ValueError: a part of a name that does not exist.
    """
    return {name: _compose(base, name) for name in only or _default_rows()}


def _compose(base: Experiment, name: str) -> Experiment:
    for part in name.split(_SEPARATOR):
        if part not in _PARTS:
            raise ValueError(
                f"there is no ingredient {part!r}; join with {_SEPARATOR!r} what you want of {'; '.join(_PARTS)}."
            )
        change = dict(_PARTS[part])
        options = {**base.options, **change.pop("options", {})}
        base = replace(base, options=options, **change)
    return base


def chosen_blocks(
    base: Experiment, blocks: tuple[str, ...], permutations: int, depth: int
) -> dict[str, Experiment]:
    """Figure 3 of MBU-Net: which blocks are masked, drawn as chains (`shapley.chains`)."""
    subsets = chains(blocks, permutations, depth, random.Random(base.seed))
    return {
        subset_name(subset, blocks): replace(base, layers={block: "masked" for block in subset})
        for subset in subsets
    }


def all_blocks(base: Experiment, blocks: tuple[str, ...]) -> dict[str, Experiment]:
    """Figure 3 of MBU-Net: every one of the 2^n choices of blocks, those that mask few first."""
    subsets = (subset for count in range(len(blocks) + 1) for subset in combinations(blocks, count))
    return {
        subset_name(subset, blocks): replace(base, layers=dict.fromkeys(subset, "masked"))
        for subset in subsets
    }


def bit_widths(base: Experiment, blocks: tuple[str, ...], networks: int) -> dict[str, Experiment]:
    """Figure A.3 of MBU-Net: binary, masked, 4- and 8-bit weights, drawn for every block."""
    drawn = draw_kinds(blocks, networks, random.Random(base.seed))
    return {name: replace(base, layers=kinds) for name, kinds in drawn.items()}


def pareto(
    base: Experiment, orders: dict[float, tuple[str, ...]], counts: tuple[int, ...]
) -> dict[str, Experiment]:
    """Float networks of smaller widths, and the one-bit network with more and more blocks masked, cheapest first.

    Args:
        orders: weight of the operations in the cost score -> blocks, cheapest first.
        counts: how many of them to mask.
    """
    widths = [
        width for width in (base.width, base.width // 2, base.width // 4, base.width // 8) if width >= 2
    ]
    rows = {f"float, width {width}": replace(base, layers="float", width=width) for width in widths}
    known: set[frozenset[str]] = set()
    for w_op, ranking in orders.items():
        for count in counts:
            chosen = frozenset(ranking[:count])
            if chosen in known:
                continue  # another weight masks the same blocks
            known.add(chosen)
            name = f"{count} of {len(ranking)} masked" + (f", w_op {w_op:g}" if w_op != 0.5 else "")
            rows[name] = replace(base, layers=dict.fromkeys(chosen, "masked"))
    return rows
