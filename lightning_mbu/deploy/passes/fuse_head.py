"""The float convolution to classes behind the last one-bit layer.

    conv1x1(conv2d_stream(..)[0])  ->  conv2d_stream(.., head, head_bias)[0]    while that layer's result is in cache
    conv(stream[0])                ->  head_conv2d(stream[0], ..)               otherwise, to a few classes
    conv1x1(concat(..) * gate)     ->  joined_head([..], .., gate)              gate: one number per channel, or none

Their sums are rounded in an order of their own, so logits agree with the trained network's up to rounding; a
convolution whose result decides bits stays.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..graph import STREAMS, aten, channels_of, constant, constant_node, finish, is_call, mbu, pair
from .fuse_streams import only_user

_FEW_CLASSES = 4  # what `head_conv2d` takes


def fuse_heads(module: GraphModule) -> bool:
    """Applies the first rule wherever nothing else reads the stream, then the others; returns whether anything
    changed."""
    changed = False
    for node in list(module.graph.nodes):
        value = only_user(node) if is_call(node, mbu.conv2d_stream.default) else None
        head = only_user(value) if value is not None and value.args[1] == 0 else None
        if head is not None and node.args[4] is None and _is_head(module, head, value):
            _fuse(module, node, head)
            changed = True
    for node in list(module.graph.nodes):
        changed = _to_few_classes(module, node) or _to_joined(module, node) or changed
    if changed:
        finish(module)
    return changed


def _is_head(module: GraphModule, node: Node, source: Node | None) -> bool:
    if not is_call(node, aten.conv2d.default) or node.kwargs or node.args[0] is not source:
        return False
    found = _parameters(module, node)
    plain = found is not None and tuple(found.weight.shape[2:]) == (1, 1) and found.padding == [0, 0]
    return plain and not _decides_bits(node)


def _decides_bits(node: Node) -> bool:
    """Whether a packed operation comes behind `node`."""
    seen, waiting = {node}, [node]
    while waiting:
        for user in waiting.pop().users:
            if getattr(user.target, "namespace", "") == "mbu":
                return True
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _to_few_classes(module: GraphModule, node: Any) -> bool:
    source = node.args[0] if is_call(node, aten.conv2d.default) and not node.kwargs else None
    if not isinstance(source, Node) or not _is_stream(source):
        return False
    found = _parameters(module, node)
    if found is None or len(found.weight) > _FEW_CLASSES or source.meta["val"].dtype != torch.float32:
        return False
    if _decides_bits(node):
        return False
    weight = found.weight.permute(0, 2, 3, 1).contiguous()
    _replace(module, node, mbu.head_conv2d.default, source, weight, found.bias, found.padding)
    return True


def _to_joined(module: GraphModule, node: Any) -> bool:
    if not is_call(node, aten.conv2d.default) or node.kwargs or not _is_head(module, node, node.args[0]):
        return False
    source, gate = _gated(node.args[0])
    if not is_call(source, aten.cat.default) or source.args[1:] not in ((1,), (-3,)):
        return False
    parts = [part for part in source.args[0] if channels_of(part)]
    if any(part.meta["val"].dtype != torch.float32 for part in parts):
        return False
    found = _parameters(module, node)
    assert found is not None
    _replace(module, node, mbu.joined_head.default, parts, found.weight.flatten(1), found.bias, gate)
    return True


def _replace(
    module: GraphModule,
    node: Node,
    operation: Any,
    source: Any,
    weight: Tensor,
    bias: Tensor | None,
    last: Any,
) -> None:
    """Puts `operation(source, weight, bias, last)` in the place of `node`."""
    graph = module.graph
    with graph.inserting_before(node):
        weight_node = constant_node(module, weight, "head")
        bias_node = None if bias is None else constant_node(module, bias, "head_bias")
        head = graph.call_function(operation, (source, weight_node, bias_node, last))
    head.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(head)
    graph.erase_node(node)


def _gated(node: Any) -> tuple[Any, Any]:
    """`x` and the gate [N, C, 1, 1] of `x * gate`; `node` and None for anything else."""
    if not is_call(node, aten.mul.Tensor) or node.kwargs or not all(isinstance(a, Node) for a in node.args):
        return node, None
    for x, gate in (node.args, node.args[::-1]):
        shape, channels = gate.meta["val"].shape, x.meta["val"].shape[:2]
        if len(shape) == 4 and tuple(shape[2:]) == (1, 1) and shape[:2] == channels:
            return x, gate
    return node, None


def _is_stream(node: Any) -> bool:
    return node.target is operator.getitem and node.args[1] == 0 and is_call(node.args[0], *STREAMS)


class _Parameters(NamedTuple):
    weight: Tensor
    bias: Tensor | None
    padding: list[int]


def _parameters(module: GraphModule, node: Any) -> _Parameters | None:
    """Of a convolution with stride 1, no dilation and no groups, whose weights are known."""
    _, weight_node, *rest = node.args
    bias_node, stride, padding, dilation, groups = [*rest, *(None, [1, 1], [0, 0], [1, 1], 1)[len(rest) :]]
    weight, bias = constant(module, weight_node), constant(module, bias_node)
    known = weight is not None and (bias_node is None or bias is not None)
    if not known or {*pair(stride), *pair(dilation), groups} != {1} or isinstance(padding, str):
        return None
    assert weight is not None
    return _Parameters(weight.detach(), None if bias is None else bias.detach(), pair(padding))


def _fuse(module: GraphModule, stream: Node, head: Node) -> None:
    value, found = head.args[0], _parameters(module, head)
    assert isinstance(value, Node) and found is not None
    with module.graph.inserting_before(stream):
        options = {"head": constant_node(module, found.weight.flatten(1), "head")}
        if found.bias is not None:
            options["head_bias"] = constant_node(module, found.bias, "head_bias")
    stream.kwargs = {**stream.kwargs, **options}
    value.meta["val"] = head.meta["val"]
    head.replace_all_uses_with(value)
    module.graph.erase_node(head)
