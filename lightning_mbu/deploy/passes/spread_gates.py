"""A gate over a concat becomes one over each part, where the product is joined to something else once more.

gate * concat(a, b) = concat(gate_a * a, gate_b * b)

What reads a concat can read its parts; so neither concat need be stored.
"""

from __future__ import annotations

from torch.fx import GraphModule, Node

from ..graph import aten, channels_of, finish, is_call
from .lift_packs import is_gate


def spread_gates(module: GraphModule) -> bool:
    """Applies the rule wherever it can; returns whether anything changed."""
    changed = False
    for product in list(module.graph.nodes):
        if not is_call(product, aten.mul.Tensor) or not any(
            is_call(x, aten.cat.default) for x in product.users
        ):
            continue
        gate, joined = product.args if is_gate(product.args[0]) else reversed(product.args)
        if not is_gate(gate) or not is_call(joined, aten.cat.default) or joined.args[1:] not in ((1,), (-3,)):
            continue
        parts = [part for part in joined.args[0] if channels_of(part)]
        with module.graph.inserting_before(product):
            spread = module.graph.call_function(aten.cat.default, (_products(module, gate, parts), 1))
        spread.meta["val"] = product.meta["val"]
        product.replace_all_uses_with(spread)
        changed = True
    if changed:
        finish(module)
    return changed


def _products(module: GraphModule, gate: Node, parts: list[Node]) -> list[Node]:
    """Each part times its share of the gate."""
    products, first = [], 0
    for part in parts:
        last = first + channels_of(part)
        share = module.graph.call_function(aten.slice.Tensor, (gate, 1, first, last))
        share.meta["val"] = gate.meta["val"][:, first:last]
        products.append(module.graph.call_function(aten.mul.Tensor, (share, part)))
        products[-1].meta["val"] = part.meta["val"]
        first = last
    return products
