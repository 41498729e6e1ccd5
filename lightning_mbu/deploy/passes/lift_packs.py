"""Binarize before data is moved: max-pool, concat, upsampling and ReLU then work on bits, or not at all.

    pack(max_pool(x), t)  = OR-pool(pack(x, t))          sign is monotone, so it commutes with max
    pack(concat(a, b), t) = concat(pack(a, t_a), pack(b, t_b))
    pack(nearest(x), t)   = nearest(pack(x, t))          pixels only move
    pack(relu(x), t)      = pack(x, t) where t > 0; where t <= 0 every value passes: t' = -inf
    pack(g * x, t)        = pack(x, t, gate=g)           g is one number per image and channel: attention

A concat behind a gate is lifted past at once, with a share of the gate for each part.

Each applies only when all readers are packs; otherwise the float tensor is needed anyway.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..graph import aten, channels_of, finish, is_call, is_plain_pack, mbu, new_pack, pair, threshold_of

_MAX_POOL = aten.max_pool2d.default
_NEAREST = (aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default)
_MOVES_WORDS = (aten.permute.default, aten.view.dtype, *_NEAREST)


def lift_packs(module: GraphModule) -> bool:
    """Lifts every pack as far up as these rules reach; returns whether any moved."""
    moved = False
    while _lift_once(module):
        moved = True
    if moved:
        _pass_on_segments(module)
        finish(module)
    return moved


def _pass_on_segments(module: GraphModule) -> None:
    """What moves words holds the parts that its sources have by now: a concat may have been lifted past it."""
    for node in module.graph.nodes:
        if "segments" not in node.meta:
            continue
        if is_call(node, mbu.max_pool2d.default, *_MOVES_WORDS):
            node.meta["segments"] = node.args[0].meta["segments"]
        elif is_call(node, aten.cat.default):
            node.meta["segments"] = sum((part.meta["segments"] for part in node.args[0]), ())


def _lift_once(module: GraphModule) -> bool:
    for node in module.graph.nodes:
        rule = next((rule for targets, rule in _RULES if is_call(node, *targets)), None)
        packs = [user for user in node.users if is_plain_pack(user)]
        if rule is None or not packs or len(packs) != len(node.users):
            continue
        lifted = False
        for pack in packs:
            with module.graph.inserting_before(pack):
                bits = rule(module, node, threshold_of(module, pack))
            if bits is not None:
                pack.replace_all_uses_with(bits)
                module.graph.erase_node(pack)
                lifted = True
        if lifted:
            if not node.users:
                module.graph.erase_node(node)  # or it would count as a reader of its own sources
            return True
    return False


def _through_max_pool(module: GraphModule, pool: Node, threshold: Tensor) -> Node | None:
    source, kernel, *rest = pool.args
    assert isinstance(source, Node)
    stride, padding, dilation, ceil_mode = [*rest, *([], [0, 0], [1, 1], False)[len(rest) :]]
    kernel, padding, dilation = (pair(value) for value in (kernel, padding, dilation))
    bits = new_pack(module, source, threshold)
    pooled = module.graph.call_function(
        mbu.max_pool2d.default, (bits, kernel, pair(stride) or kernel, padding, dilation, ceil_mode)
    )
    pooled.meta["segments"] = bits.meta["segments"]
    return pooled


def _through_concat(module: GraphModule, concat: Node, threshold: Tensor) -> Node | None:
    parts = concat.args[0]
    dimension = concat.args[1] if len(concat.args) > 1 else 0
    assert isinstance(parts, list | tuple)
    if dimension not in (1, -3):
        return None
    # A part may be empty: smp puts one where an encoder has no feature map of that size.
    nodes = [part for part in parts if isinstance(part, Node) and channels_of(part)]
    sizes = [channels_of(part) for part in nodes]
    bits = [new_pack(module, part, piece) for part, piece in zip(nodes, threshold.split(sizes), strict=True)]
    joined = module.graph.call_function(aten.cat.default, (bits, 3))
    joined.meta["segments"] = tuple(sizes)
    return joined


def _through_nearest(module: GraphModule, upsample: Node, threshold: Tensor) -> Node | None:
    source, *sizes = upsample.args
    assert isinstance(source, Node)
    graph = module.graph
    bits = new_pack(module, source, threshold)
    # The float kernel moves whole words: same operation, same rounding of pixel positions, no arithmetic on data.
    words = graph.call_function(aten.permute.default, (bits, [0, 3, 1, 2]))
    opaque = graph.call_function(aten.view.dtype, (words, torch.float32))
    moved = graph.call_function(upsample.target, (opaque, *sizes))  # type: ignore[arg-type]
    back = graph.call_function(aten.view.dtype, (moved, torch.int32))
    result = graph.call_function(aten.permute.default, (back, [0, 2, 3, 1]))
    for node in (words, opaque, moved, back, result):
        node.meta["segments"] = bits.meta["segments"]
    return result


def _through_relu(module: GraphModule, relu: Node, threshold: Tensor) -> Node | None:
    source = relu.args[0]
    assert isinstance(source, Node)
    return new_pack(module, source, torch.where(threshold > 0, threshold, -torch.inf))


def _through_gate(module: GraphModule, product: Node, threshold: Tensor) -> Node | None:
    gate, source = product.args
    if not is_gate(gate):
        gate, source = source, gate
    if not is_gate(gate) or not isinstance(source, Node) or is_gate(source):
        return None
    assert isinstance(gate, Node)
    parts = [source]
    if is_call(source, aten.cat.default) and source.args[1:] in ((1,), (-3,)):
        parts = [part for part in source.args[0] if channels_of(part)]  # type: ignore[union-attr,arg-type]
    sizes = [channels_of(part) for part in parts]
    bits, first = [], 0
    for part, size, piece in zip(parts, sizes, threshold.split(sizes), strict=True):
        share = gate
        if len(parts) > 1:
            share = module.graph.call_function(aten.slice.Tensor, (gate, 1, first, first + size))
        bits.append(new_pack(module, part, piece, gate=share))
        first += size
    if len(bits) == 1:
        return bits[0]
    joined = module.graph.call_function(aten.cat.default, (bits, 3))
    joined.meta["segments"] = tuple(sizes)
    return joined


def is_gate(node: object) -> bool:
    """Whether it yields float32 `[N, C, 1, 1]` that is no constant."""
    value = node.meta.get("val") if isinstance(node, Node) and node.op == "call_function" else None
    return (
        isinstance(value, Tensor)
        and value.dim() == 4
        and tuple(value.shape[2:]) == (1, 1)
        and value.dtype == torch.float32
    )


_RULES: tuple[tuple[tuple, Callable[[GraphModule, Node, Tensor], Node | None]], ...] = (
    ((_MAX_POOL,), _through_max_pool),
    ((aten.cat.default,), _through_concat),
    (_NEAREST, _through_nearest),
    ((aten.relu.default,), _through_relu),
    ((aten.mul.Tensor,), _through_gate),
)


def merge_packs(module: GraphModule) -> bool:
    """Packs of one tensor with equal thresholds become one; so do equal pools behind them."""
    merged = False
    seen: dict[tuple, Node] = {}
    for node in list(module.graph.nodes):
        if is_plain_pack(node):
            key = (node.args[0], tuple(threshold_of(module, node).tolist()))
        elif is_call(node, mbu.max_pool2d.default):
            key = (node.args[0], repr(node.args[1:]))
        else:
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            module.graph.erase_node(node)
            merged = True
    if merged:
        finish(module)
    return merged
