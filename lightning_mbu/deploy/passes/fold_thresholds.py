"""Batch norm, scale, bias and binarizer behind a convolution become integer thresholds inside it.

    pack(chain(conv2d(bits)), t)   ->  conv2d_threshold(bits, tau, flip)
    pack(chain(x), t)              ->  pack(x, t', flip)               for any other float x

`chain` is any run of per-channel monotone operations with constant parameters. Readers of one convolution with
different thresholds become planes of one call.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from mbu_ops.packing import pack_bits

from ..graph import (
    CONVOLUTIONS,
    FUSED_CONVOLUTIONS,
    aten,
    channels_of,
    constant,
    constant_node,
    evaluate,
    finish,
    is_call,
    is_per_channel,
    mbu,
    new_pack,
    segments_of,
    threshold_of,
)
from ..thresholds import float_thresholds, integer_thresholds

_BINARY = (
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor,
    aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar, aten.div.Scalar, aten.rsub.Scalar,
)  # fmt: skip
_UNARY = (aten.relu.default, aten.hardtanh.default, aten.relu6.default)


@dataclass(frozen=True)
class Reader:
    """One pack behind a float tensor, and the operations between the two."""

    chain: tuple[Node, ...]
    pack: Node


def fold_convolution_thresholds(module: GraphModule) -> bool:
    """Applies the first rule wherever all that is read of a convolution is bits."""
    changed = False
    for node in list(module.graph.nodes):
        if not is_call(node, *CONVOLUTIONS):
            continue
        readers = pack_readers(module, node, ())
        if not readers:
            continue
        limit = _largest_sum(module, node)
        planes: dict[tuple, tuple[Tensor, Tensor]] = {}
        keys = []
        for reader in readers:
            is_set = bit_function(module, node, reader)
            tau, flip = integer_thresholds(lambda d, f=is_set: f(d.float()), limit, channels_of(node))
            keys.append((tuple(tau.tolist()), tuple(flip.tolist())))
            planes.setdefault(keys[-1], (tau, flip))
        _replace(module, node, readers, keys, planes)
        changed = True
    if changed:
        finish(module)
    return changed


def fold_activation_thresholds(module: GraphModule) -> bool:
    """Applies the second rule, where nothing else needs the chain's results."""
    changed = False
    for pack in list(module.graph.nodes):
        if not is_call(pack, mbu.pack.default) or len(pack.args) > 2:
            continue
        chain: list[Node] = []
        source = pack.args[0]
        while isinstance(source, Node) and len(source.users) == 1:
            before = _monotone_input(module, source)
            if before is None:
                break
            chain.insert(0, source)
            source = before
        if not chain:
            continue
        assert isinstance(source, Node)
        is_set = bit_function(module, source, Reader(tuple(chain), pack))
        threshold, flip = float_thresholds(is_set, channels_of(source))
        with module.graph.inserting_before(pack):
            folded = new_pack(module, source, threshold, pack_bits(flip))
        pack.replace_all_uses_with(folded)
        module.graph.erase_node(pack)
        changed = True
    if changed:
        finish(module)
    return changed


def _monotone_input(module: GraphModule, node: Node) -> Node | None:
    """The one float tensor that `node` is a per-channel monotone function of, or None."""
    if is_call(node, aten.batch_norm.default):
        source, *rest = node.args
        parameters, training = rest[:4], rest[4]
        known = all(p is None or constant(module, p) is not None for p in parameters)
        return source if known and not training and isinstance(source, Node) else None
    if is_call(node, *_UNARY):
        return node.args[0] if isinstance(node.args[0], Node) else None
    if is_call(node, *_BINARY) and not node.kwargs:
        left, right = node.args
        if isinstance(left, Node) and is_per_channel(module, right, channels_of(node)):
            return left
        commutes = not is_call(node, aten.div.Tensor)
        if commutes and isinstance(right, Node) and is_per_channel(module, left, channels_of(node)):
            return right
    return None


def pack_readers(module: GraphModule, node: Node, chain: tuple[Node, ...]) -> list[Reader]:
    """All packs behind `node`; empty if anything else reads it or a result of its chain."""
    readers: list[Reader] = []
    for user in node.users:
        if is_call(user, mbu.pack.default) and len(user.args) <= 2:
            readers.append(Reader(chain, user))
        elif _monotone_input(module, user) is node:
            found = pack_readers(module, user, (*chain, user))
            if not found:
                return []
            readers += found
        else:
            return []
    return readers


def bit_function(module: GraphModule, root: Node, reader: Reader):
    """float32 `[C]`, a value of each channel of `root` -> bool `[C]`, the bit that the model computes from it."""
    threshold = threshold_of(module, reader.pack)

    def is_set(values: Tensor) -> Tensor:
        # A whole small map, not one pixel: on single pixels ATen's batch norm takes another code path, which rounds
        # differently from the one that images go through.
        maps = values.float().view(1, -1, 1, 1).repeat(2, 1, 4, 8)
        known = {root: maps}
        for node in reader.chain:
            known[node] = evaluate(node, module, known)
        result = known[reader.chain[-1]] if reader.chain else maps
        return result[0, :, 0, 0] >= threshold

    return is_set


def _largest_sum(module: GraphModule, convolution: Node) -> int:
    """Bound on |dot product|: taps times channels."""
    kernel = convolution.args[3]
    assert isinstance(kernel, list | tuple)
    return sum(segments_of(convolution)) * int(kernel[0]) * int(kernel[1])  # type: ignore[arg-type]


def _replace(
    module: GraphModule,
    convolution: Node,
    readers: list[Reader],
    keys: list[tuple],
    planes: dict[tuple, tuple[Tensor, Tensor]],
) -> None:
    graph = module.graph
    with graph.inserting_before(convolution.next):
        taus = constant_node(module, torch.stack([tau for tau, _ in planes.values()]), "tau")
        flips = constant_node(module, torch.stack([pack_bits(flip) for _, flip in planes.values()]), "flip")
        fused_target = FUSED_CONVOLUTIONS[CONVOLUTIONS.index(convolution.target)]  # type: ignore[arg-type]
        bits, weight, *geometry = convolution.args
        fused = graph.call_function(fused_target, (bits, weight, taus, flips, *geometry))
    fused.meta["layer"] = convolution.meta.get("layer")
    replace_readers(module, convolution, fused, readers, keys, list(planes))


def replace_readers(
    module: GraphModule,
    convolution: Node,
    fused: Node,
    readers: list[Reader],
    keys: list[tuple],
    planes: list[tuple],
) -> None:
    """Lets every reader take its plane of `fused`: `keys` names the one of each, `planes` their order."""
    graph, channels = module.graph, channels_of(convolution)
    fused.meta["segments"] = (channels,) * len(planes)
    words = -(-channels // 32)
    outputs = {key: fused for key in planes}
    if len(planes) > 1:
        with graph.inserting_before(fused.next):
            for place, key in enumerate(planes):
                outputs[key] = graph.call_function(
                    aten.slice.Tensor, (fused, 3, place * words, (place + 1) * words)
                )
                outputs[key].meta["segments"] = (channels,)
    for reader, key in zip(readers, keys, strict=True):
        reader.pack.replace_all_uses_with(outputs[key])
        graph.erase_node(reader.pack)
