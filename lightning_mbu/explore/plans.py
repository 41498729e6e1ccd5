"""Plans that studies need and `make_plan` does not make: every layer of one kind, or block by block."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from ..plan import Plan, make_plan
from ..roles import block_of
from ..weight_quantizers import KINDS


def uniform_plan(model: nn.Module, example_input: Tensor, kind: str) -> Plan:
    """The plan in which every layer that can be quantized has one kind (`weight_quantizers.KINDS`)."""
    _check([kind])
    plan = make_plan(model, example_input)
    return replace(
        plan,
        layers=tuple(
            layer if layer.kind == "float" else replace(layer, kind=kind, reason=f"all are {kind}")
            for layer in plan.layers
        ),
    )


def ranked_blocks(
    model: nn.Module, example_input: Tensor, w_op: float = 0.5, w_param: float = 0.5
) -> tuple[str, ...]:
    """Blocks that may be masked, cheapest first (MBU-Net, Eq. 2)."""
    plan = make_plan(model, example_input, w_op=w_op, w_param=w_param)
    ranks = {block_of(layer.name): layer.rank for layer in plan.layers if layer.rank is not None}
    return tuple(sorted(ranks, key=ranks.__getitem__))


def block_plan(model: nn.Module, example_input: Tensor, kinds: dict[str, str]) -> Plan:
    """A plan by blocks; a block that is not named is binary, and the stem masked as always.

    Args:
        kinds: block -> `"float"`, `"binary"`, `"masked"` or an integer kind.

    Raises:
        ValueError: a block or a kind that does not exist.
    """
    _check([kind for kind in kinds.values() if kind != "float"])
    blocks = ranked_blocks(model, example_input)
    unknown = [name for name in kinds if name not in blocks]
    if unknown:
        raise ValueError(
            f"the blocks {unknown} do not exist or are not ranked; there are {', '.join(blocks)}."
        )
    everything = make_plan(model, example_input)
    floating = [x.name for x in everything.quantized if kinds.get(block_of(x.name)) == "float"]
    plan = make_plan(model, example_input, masked="none", exclude=floating)
    return replace(
        plan,
        layers=tuple(
            layer
            if layer.kind == "float" or layer.rank is None
            else replace(layer, kind=kinds.get(block_of(layer.name), "binary"), reason="as the study has it")
            for layer in plan.layers
        ),
    )


def _check(kinds: list[str]) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"the kinds {unknown} are unknown; choose float, {', '.join(KINDS)}.")
