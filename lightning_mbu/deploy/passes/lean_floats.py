"""Float operations that touch less new memory than torch's own on the CPU, for the same numbers up to rounding.

    upsample_bilinear2d(x, ..)                   ->  mbu.upsample_bilinear2d(x, ..)    into memory that is kept between calls
    attention(pad(query), pad(key), value, s)    ->  mbu.attention(query, key, value, s)    heads of two widths need no zeros

Last of all rules, since the others take what reads bits for a packed operation.
"""

from __future__ import annotations

import operator

from torch.fx import GraphModule, Node

from ..graph import aten, finish, is_call, mbu


def lean_floats(module: GraphModule) -> bool:
    """Applies both rules wherever they can; returns whether anything changed."""
    changed = False
    for node in list(module.graph.nodes):
        rule = next((rule for target, rule in _RULES.items() if is_call(node, target)), None)
        if rule is None:
            continue
        with module.graph.inserting_before(node):
            lean = rule(module, node)
        if lean is not None:
            lean.meta.update(node.meta)
            node.replace_all_uses_with(lean)
            module.graph.erase_node(node)  # attention counts as random, and would stay
            changed = True
    if changed:
        finish(module)
    return changed


def _upsample(module: GraphModule, node: Node) -> Node | None:
    source, size, align_corners, *rest = node.args
    scales = list(rest[0]) if rest and rest[0] is not None else [None, None]  # type: ignore[call-overload]
    if size is None:
        if any(scale is None or scale != int(scale) for scale in scales):
            return None
        pixels = [module.graph.call_function(aten.sym_size.int, (source, axis)) for axis in (2, 3)]
        size = [
            module.graph.call_function(operator.mul, (count, int(scale)))  # type: ignore[arg-type]
            for count, scale in zip(pixels, scales, strict=True)
        ]
    return module.graph.call_function(mbu.upsample_bilinear2d.default, (source, size, align_corners, *scales))


def _attention(module: GraphModule, node: Node) -> Node | None:
    query, key, value, *rest = node.args
    if rest or set(node.kwargs) != {"scale"}:
        return None
    if not all(is_call(x, aten.pad.default) and _widens_alone(x) for x in (query, key)):  # type: ignore[arg-type]
        return None
    arguments = (query.args[0], key.args[0], value, node.kwargs["scale"])  # type: ignore[union-attr]
    return module.graph.call_function(mbu.attention.default, arguments)


def _widens_alone(pad: Node) -> bool:
    """Whether it adds zeros behind the last axis and nothing else: a product of two such does not see them."""
    return len(pad.args) == 2 and not pad.kwargs and len(pad.args[1]) == 2 and pad.args[1][0] == 0  # type: ignore[arg-type,index]


_RULES = {
    aten.upsample_bilinear2d.vec: _upsample,
    aten.scaled_dot_product_attention.default: _attention,
}
