"""Float streams stored as bfloat16: half the memory and half the traffic.

    y.bfloat16().float()  behind a stream    ->  conv2d_stream(.., dtype=bfloat16), widened only for float operations;
                                                 conv_transpose2d_stream and stem_stream alike

A network trained with `stream_dtype="bfloat16"` rounds where its streams are stored, so the packed one is still exact.
`round_streams` does the same to a network that was not trained so; its bits then differ where rounding crosses a
threshold.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from ..graph import STREAM_CONVOLUTIONS, STREAMS, aten, finish, is_call, is_plain_pack
from .fuse_streams import only_user


def narrow_streams(module: GraphModule) -> bool:
    """Lets every stream that the network rounds to bfloat16 be stored so."""
    changed = False
    for node in list(module.graph.nodes):
        if not is_call(node, *STREAMS):
            continue
        value = next(user for user in node.users if user.args[1] == 0)
        rounded = only_user(value)
        if rounded is None or not _converts(rounded, torch.bfloat16):
            continue
        widened = only_user(rounded)
        if widened is None or not _converts(widened, torch.float32):
            continue
        _store_narrow(node, value)
        rounded.replace_all_uses_with(value)
        changed = True
    if changed:
        finish(module)
    return read_narrow(module) or changed


def read_narrow(module: GraphModule) -> bool:
    """Packs and shortcuts read a narrow stream as it is stored; only other operations need it widened."""
    changed = False
    for node in list(module.graph.nodes):
        source = node.args[0] if _converts(node, torch.float32) else None
        if not isinstance(source, Node) or source.meta["val"].dtype != torch.bfloat16:
            continue
        for user in list(node.users):
            if is_plain_pack(user) or is_call(user, *STREAM_CONVOLUTIONS):
                user.replace_input_with(node, source)
                changed = True
    if changed:
        finish(module)
    return changed


def round_streams(module: GraphModule) -> bool:
    """Stores as bfloat16 every stream that only shortcuts read. Not exact."""
    changed = False
    for node in module.graph.nodes:
        if not is_call(node, *STREAMS) or "dtype" in node.kwargs:
            continue
        values = [user for user in node.users if user.args[1] == 0]
        readers = [reader for value in values for reader in value.users]
        if readers and all(is_call(reader, *STREAM_CONVOLUTIONS) for reader in readers):
            _store_narrow(node, values[0])
            changed = True
    if changed:
        finish(module)
    return changed


def _converts(node: Node, dtype: torch.dtype) -> bool:
    return is_call(node, aten.to.dtype) and node.args[1] is dtype


def _store_narrow(stream: Node, value: Node) -> None:
    stream.kwargs = {**stream.kwargs, "dtype": torch.bfloat16}
    value.meta["val"] = value.meta["val"].bfloat16()
