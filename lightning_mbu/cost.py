"""What each block costs, and the ranking that decides which blocks are masked (MBU-Net, Eq. 2)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from .roles import block_of
from .trace import Operation

LOW_SHARE = 0.6  # below it the float rest takes more time than the one-bit layers could save


@dataclass(frozen=True)
class LayerCost:
    """Cost of one convolution layer.

    Attributes:
        name: dotted module name.
        macs: multiply-adds of all its calls in one run of the example input.
        operations: additions and multiplications as the paper counts them (see `operation_count`).
        weights: entries of its weight tensor.
    """

    name: str
    macs: int
    operations: int
    weights: int


def operation_count(macs: int, transposed: bool) -> int:
    """Operations of a layer in the count behind Table A.4 of MBU-Net.

    Trap: the paper counts a multiply-add of a convolution as two operations and one of a transposed convolution
    as one, although both do the same arithmetic. Kept, because the published ranks follow from it.
    """
    return macs if transposed else 2 * macs


def layer_cost(name: str, calls: Iterable[Operation], weights: int) -> LayerCost:
    """Sums the calls of one layer."""
    calls = list(calls)
    return LayerCost(
        name,
        macs=sum(op.macs for op in calls),
        operations=sum(operation_count(op.macs, op.transposed) for op in calls),
        weights=weights,
    )


def cost_scores(layers: Iterable[LayerCost], w_op: float = 0.5, w_param: float = 0.5) -> dict[str, float]:
    """Block -> cost score, cheapest first (MBU-Net, Eq. 2).

        score = w_op * operations / max operations + w_param * weights / max weights

    Args:
        layers: the layers that may be masked; layers of one block are added up.
        w_op: weight of the operations, in [0, 1].
        w_param: weight of the parameters; w_op + w_param = 1.

    Raises:
        ValueError: the two weights are negative or do not add up to 1.
    """
    if w_op < 0 or w_param < 0 or abs(w_op + w_param - 1) > 1e-6:
        raise ValueError(
            f"w_op={w_op} and w_param={w_param} must be at least 0 and add up to 1 (Eq. 2). "
            f"Set w_param={1 - w_op:g} or w_op={1 - w_param:g}."
        )
    operations: dict[str, int] = {}
    weights: dict[str, int] = {}
    for layer in layers:
        block = block_of(layer.name)
        operations[block] = operations.get(block, 0) + layer.operations
        weights[block] = weights.get(block, 0) + layer.weights
    if not operations:
        return {}
    most_operations, most_weights = max(operations.values()), max(weights.values())
    scores = {
        block: w_op * operations[block] / most_operations + w_param * weights[block] / most_weights
        for block in operations
    }
    return dict(sorted(scores.items(), key=lambda item: item[1]))


def warn_if_low(share: float, rest: Iterable[tuple[str, int]]) -> None:
    """Warns the caller's caller of a plan that leaves much in float.

    Args:
        share: of the multiply-adds that become one-bit, in [0, 1].
        rest: reason and multiply-adds of everything else.
    """
    if share >= LOW_SHARE:
        return
    by_reason: dict[str, int] = {}
    for reason, macs in rest:
        by_reason[reason] = by_reason.get(reason, 0) + macs
    total = max(sum(by_reason.values()), 1)
    largest = sorted(by_reason.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{(1 - share) * macs / total:.0%} ({reason})" for reason, macs in largest if macs)
    warnings.warn(
        f"only {share:.0%} of the multiply-adds become one-bit, so that packing gains little; float stay {parts}. "
        "Choose an encoder of ordinary convolutions, such as resnet34, if speed is what you want.",
        UserWarning, stacklevel=3,
    )  # fmt: skip
