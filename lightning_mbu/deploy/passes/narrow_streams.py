"""Float streams stored in fewer bytes: less memory, and less traffic.

    y.bfloat16().float()  behind a stream         ->  conv2d_stream(.., dtype=bfloat16)
    (y.clamp() * 16).round().int8().float() / 16  ->  conv2d_stream(.., dtype=int8)

Widened only for float operations; conv_transpose2d_stream and stem_stream alike.

A network trained with `stream_dtype` rounds where its streams are stored, so the packed one is still exact.
`round_streams` does the same to a network that was not trained so; its bits then differ where rounding crosses a
threshold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from ...quantizers import INT8_STEPS
from ..graph import STREAM_CONVOLUTIONS, STREAMS, aten, finish, is_call, is_plain_pack
from .fuse_streams import only_user

# What `round_stream` is traced to, behind a stream: operations and their arguments.
_TO_FLOAT = (aten.to.dtype, torch.float32)
_ROUNDINGS = {
    torch.bfloat16: ((aten.to.dtype, torch.bfloat16), _TO_FLOAT),
    torch.int8: (
        (aten.clamp.default, -128 / INT8_STEPS, 127 / INT8_STEPS), (aten.mul.Tensor, INT8_STEPS),
        (aten.round.default,), (aten.to.dtype, torch.int8), _TO_FLOAT, (aten.mul.Tensor, 1 / INT8_STEPS),
    ),
}  # fmt: skip


def narrow_streams(module: GraphModule) -> bool:
    """Lets every stream that the network rounds be stored so."""
    changed = False
    for node in list(module.graph.nodes):
        if not is_call(node, *STREAMS):
            continue
        value = next(user for user in node.users if user.args[1] == 0)
        for dtype, rounding in _ROUNDINGS.items():
            steps = _behind(value, rounding)
            if steps:
                narrowed = next(step for step in steps if _converts(step, dtype))
                _store_narrow(node, value, dtype)
                narrowed.replace_all_uses_with(value)  # what widens it again stays, for readers that need it
                changed = True
    if changed:
        finish(module)
    return read_narrow(module) or changed


def read_narrow(module: GraphModule) -> bool:
    """Packs and shortcuts read a narrow stream as it is stored; only other operations need it widened."""
    changed = False
    for node in list(module.graph.nodes):
        source = _stored(node)
        if source is None:
            continue
        for user in list(node.users):
            if is_plain_pack(user) or is_call(user, *STREAM_CONVOLUTIONS):
                user.replace_input_with(node, source)
                changed = True
    if changed:
        finish(module)
    return changed


def _stored(node: Node) -> Node | None:
    """The narrow stream that `node` widens; None if it does not."""
    if is_call(node, aten.mul.Tensor) and node.args[1] == 1 / INT8_STEPS:
        node, dtype = node.args[0], torch.int8  # type: ignore[assignment]
    else:
        dtype = torch.bfloat16
    source = node.args[0] if _converts(node, torch.float32) else None
    return source if isinstance(source, Node) and source.meta["val"].dtype == dtype else None


def _behind(node: Node, rounding: tuple[tuple[Any, ...], ...]) -> list[Node]:
    """The steps of a rounding behind `node`, each the only reader of the one before; none if they are not there."""
    steps: list[Node] = []
    for target, *arguments in rounding:
        user = only_user(node)
        if user is None or not is_call(user, target) or list(user.args[1:]) != arguments:
            return []
        steps.append(user)
        node = user
    return steps


def round_streams(module: GraphModule) -> bool:
    """Stores as bfloat16 every stream that only shortcuts read. Not exact."""
    changed = False
    for node in module.graph.nodes:
        if not is_call(node, *STREAMS) or "dtype" in node.kwargs:
            continue
        values = [user for user in node.users if user.args[1] == 0]
        readers = [reader for value in values for reader in value.users]
        if readers and all(is_call(reader, *STREAM_CONVOLUTIONS) for reader in readers):
            _store_narrow(node, values[0], torch.bfloat16)
            changed = True
    if changed:
        finish(module)
    return changed


def _converts(node: Node, dtype: torch.dtype) -> bool:
    return is_call(node, aten.to.dtype) and node.args[1] is dtype


def _store_narrow(stream: Node, value: Node, dtype: torch.dtype) -> None:
    stream.kwargs = {**stream.kwargs, "dtype": dtype}
    value.meta["val"] = value.meta["val"].to(dtype)
