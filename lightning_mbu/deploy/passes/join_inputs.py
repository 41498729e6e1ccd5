"""Concat and nearest upsampling in front of convolutions: read by them in place of being written first.

    conv2d([cat(a, b)])            ->  conv2d([a, b])
    conv2d([nearest(a, size)])     ->  conv2d([a], size=size)

Each applies only where packed convolutions are all that reads the result, directly or through the other rule;
otherwise it has to be written anyway. A convolution brings all its parts to one size, so what is upsampled twice
keeps the first time as a pass of its own.
"""

from __future__ import annotations

import operator
from typing import Any

from torch.fx import Graph, GraphModule, Node

from ..graph import ALL_CONVOLUTIONS, aten, bits_of, finish, is_call

_NEAREST = (aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default)


def join_inputs(module: GraphModule) -> bool:
    """Applies both rules to every packed convolution; returns whether any changed."""
    changed = False
    for node in module.graph.nodes:
        if not is_call(node, *ALL_CONVOLUTIONS):
            continue
        parts = [part for bits in bits_of(node) for part in _joined(bits)]
        sources = [_enlarged(part) for part in parts]
        if parts == bits_of(node) and not any(sources):
            continue
        resized = next((source for source in sources if source is not None), None)
        if resized is not None:
            with module.graph.inserting_before(node):
                node.kwargs = {**node.kwargs, "size": _size(module.graph, *resized)}
        inputs = [part if source is None else source[0] for part, source in zip(parts, sources, strict=True)]
        node.args = (inputs, *node.args[1:])
        changed = True
    if changed:
        finish(module)
    return changed


def _only_joined(node: Node) -> bool:
    """Whether all that reads `node` reads it as the input of a convolution."""
    return all(
        is_call(user, *ALL_CONVOLUTIONS) or (_is_concat(user) and _only_joined(user)) for user in node.users
    )


def _is_concat(node: Node) -> bool:
    return is_call(node, aten.cat.default) and node.args[1:] == (3,) and "segments" in node.meta


def _joined(bits: Node) -> list[Node]:
    """The parts that a concat, or a concat of concats, of packed tensors has; itself where it has none."""
    if not _is_concat(bits) or not _only_joined(bits):
        return [bits]
    return [part for source in bits.args[0] for part in _joined(source)]  # type: ignore[union-attr]


def _enlarged(bits: Node) -> tuple[Node, Node] | None:
    """`(packed source, upsampling)` of a nearest upsampling of words, as `lift_packs` writes it."""
    if not is_call(bits, aten.permute.default) or "segments" not in bits.meta or not _only_joined(bits):
        return None
    chain = [bits]
    for targets in ((aten.view.dtype,), _NEAREST, (aten.view.dtype,), (aten.permute.default,)):
        source = chain[-1].args[0] if chain[-1].args else None
        if not isinstance(source, Node) or not is_call(source, *targets) or len(source.users) != 1:
            return None
        chain.append(source)
    source = chain[-1].args[0]
    upsampling = chain[2]
    assert isinstance(source, Node)
    sized = _size_argument(upsampling) is not None
    return (source, upsampling) if sized or _factors(upsampling) is not None else None


def _size_argument(upsampling: Node) -> list[Any] | None:
    """The output size that the call names, if it names no other rounding of positions with it."""
    size, *scales = upsampling.args[1:]
    return list(size) if size is not None and not any(scales) else None  # type: ignore[call-overload]


def _factors(upsampling: Node) -> list[int] | None:
    """The whole factors that the call names instead of a size. Others round positions in their own way."""
    size, *scales = upsampling.args[1:]
    factors = list(scales[0]) if size is None and scales and scales[0] is not None else []  # type: ignore[call-overload]
    whole = len(factors) == 2 and all(factor >= 1 and factor == int(factor) for factor in factors)
    return [int(factor) for factor in factors] if whole else None


def _size(graph: Graph, source: Node, upsampling: Node) -> list[Any]:
    """Height and width behind `upsampling`, as constants or nodes."""
    size, factors = _size_argument(upsampling), _factors(upsampling)
    if size is not None:
        return size
    assert factors is not None
    pixels = [graph.call_function(aten.sym_size.int, (source, axis)) for axis in (1, 2)]
    return [graph.call_function(operator.mul, pair) for pair in zip(pixels, factors, strict=True)]
