"""The float 1x1 convolution behind the last one-bit layer is computed while that layer's result is in cache.

    conv1x1(conv2d_stream(..)[0])  ->  conv2d_stream(.., head, head_bias)[0]

Its sums are rounded in an order of their own, so logits agree with the trained network's up to rounding.
"""

from __future__ import annotations

from torch.fx import GraphModule, Node

from ..graph import aten, constant, constant_node, finish, is_call, mbu
from .fuse_streams import only_user


def fuse_heads(module: GraphModule) -> bool:
    """Applies the rule wherever nothing else reads the stream; returns whether anything changed."""
    changed = False
    for node in list(module.graph.nodes):
        value = only_user(node) if is_call(node, mbu.conv2d_stream.default) else None
        head = only_user(value) if value is not None and value.args[1] == 0 else None
        if head is not None and node.args[4] is None and _is_head(module, head, value):
            _fuse(module, node, head)
            changed = True
    if changed:
        finish(module)
    return changed


def _is_head(module: GraphModule, node: Node, source: Node | None) -> bool:
    if not is_call(node, aten.conv2d.default) or node.kwargs or node.args[0] is not source:
        return False
    _, weight_node, *rest = node.args
    bias, stride, padding, _, groups = [*rest, *(None, [1, 1], [0, 0], [1, 1], 1)[len(rest) :]]
    weight = constant(module, weight_node)
    known = weight is not None and (bias is None or constant(module, bias) is not None)
    plain = set(stride) == {1} and set(padding) == {0} and groups == 1  # type: ignore[arg-type]
    return known and plain and tuple(weight.shape[2:]) == (1, 1)  # type: ignore[union-attr]


def _fuse(module: GraphModule, stream: Node, head: Node) -> None:
    value, weight_node, *rest = head.args
    assert isinstance(value, Node)
    weight, bias = constant(module, weight_node), constant(module, rest[0] if rest else None)
    assert weight is not None
    with module.graph.inserting_before(stream):
        options = {"head": constant_node(module, weight.detach().flatten(1), "head")}
        if bias is not None:
            options["head_bias"] = constant_node(module, bias.detach(), "head_bias")
    stream.kwargs = {**stream.kwargs, **options}
    value.meta["val"] = head.meta["val"]
    head.replace_all_uses_with(value)
    module.graph.erase_node(head)
