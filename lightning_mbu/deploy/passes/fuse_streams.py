"""Residual networks: scale, batch norm, shortcut and ReLU behind a convolution are computed in its own pass.

    relu(batch_norm(conv2d(bits) * scale) + shortcut)    ->  conv2d_stream(bits, affine, [shortcut])
    pack(that, t)                                        ->  its second output

Pooling, nearest upsampling, concat and a change of the channel count in front of the addition become the way in
which the shortcut is read, and are never stored. The order of operations and their rounding stay the trained
network's.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..graph import (
    CONVOLUTIONS,
    PACKED_LAYERS,
    STREAM_CONVOLUTIONS,
    STREAMS,
    aten,
    channels_of,
    constant,
    constant_node,
    finish,
    is_call,
    is_per_channel,
    is_plain_pack,
    mbu,
    threshold_of,
)

_SIGNED = {aten.add.Tensor: 1.0, aten.add.Scalar: 1.0, aten.sub.Tensor: -1.0, aten.sub.Scalar: -1.0}


def fuse_streams(module: GraphModule) -> bool:
    """Applies the first rule to every convolution that has anything to fuse."""
    calls = Counter(node.meta.get("layer") for node in module.graph.nodes if is_call(node, *PACKED_LAYERS))
    changed = False
    for node in [node for node in module.graph.nodes if is_call(node, *CONVOLUTIONS)]:
        # Fusing moves a convolution behind its shortcut; the calls of a layer that is used twice keep their order.
        if calls[node.meta.get("layer")] == 1:
            changed = _fuse(module, node) or changed
    if changed:
        finish(module)
    return changed


def _fuse(module: GraphModule, convolution: Node) -> bool:
    channels = channels_of(convolution)
    last, steps = affine_steps(module, convolution, channels)
    shortcut = _shortcut(only_user(last), last)
    parts, pool, upsample = ([], 1, 1) if shortcut is None else _read_shortcut(shortcut, channels)
    if shortcut is not None:
        last = only_user(last) or last
    last, relu = behind_relu(last)
    if last is convolution:
        return False

    affine = torch.stack(steps) if steps else torch.empty(0, 2, channels)
    graph = module.graph
    with graph.inserting_after(last):
        place = graph.call_function(operator.getitem, (convolution, 0))  # its input follows below
    with graph.inserting_before(place):
        bits, weight, *geometry = convolution.args
        if is_call(convolution, mbu.conv2d.default) and len(geometry) == 5:
            geometry.append(0)  # pad_value
        stream = graph.call_function(
            STREAM_CONVOLUTIONS[CONVOLUTIONS.index(convolution.target)],  # type: ignore[arg-type]
            (
                bits, weight, constant_node(module, affine, "affine"), parts, None,
                *geometry, pool, upsample, relu,
            ),
        )  # fmt: skip
    stream.meta["layer"] = convolution.meta.get("layer")
    place.args = (stream, 0)
    place.meta["val"] = last.meta["val"]
    last.replace_all_uses_with(place)
    return True


def only_user(node: Node) -> Node | None:
    """The one reader of `node`; None if it has none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def affine_steps(module: GraphModule, source: Node, channels: int) -> tuple[Node, list[Tensor]]:
    """The last of the per-channel affine operations behind `source` that nothing else reads, and all their steps."""
    last, steps = source, []
    while (user := only_user(last)) is not None:
        step = _affine_step(module, last, user, channels)
        if step is None:
            break
        steps.append(step)
        last = user
    return last, steps


def behind_relu(node: Node) -> tuple[Node, bool]:
    """The ReLU behind `node` if it is its only reader, else `node`; and whether it was one."""
    user = only_user(node)
    return (user, True) if user is not None and is_call(user, aten.relu.default) else (node, False)


def _affine_step(module: GraphModule, source: Node, node: Node, channels: int) -> Tensor | None:
    """float32 `[2, C]`: factor and offset with which `node` is fma(source, factor, offset), to the last bit."""
    if is_call(node, aten.batch_norm.default):
        scale, bias, mean, variance, training, _, epsilon, _ = node.args[1:]
        values = [None if p is None else constant(module, p) for p in (scale, bias, mean, variance)]
        if training or values[2] is None or node.args[0] is not source:
            return None
        return _batch_norm_step(values, float(epsilon), channels)  # type: ignore[arg-type]
    if node.kwargs or len(node.args) != 2:
        return None
    left, right = node.args
    other = right if left is source else left
    sign = _SIGNED.get(node.target, 0.0)  # type: ignore[arg-type]
    commutes = sign > 0 or is_call(node, aten.mul.Tensor, aten.mul.Scalar)
    if other is source or not is_per_channel(module, other, channels) or not (commutes or left is source):
        return None
    found = constant(module, other)
    values = torch.as_tensor(other if found is None else found.detach()).float().flatten().expand(channels)
    if sign:
        return torch.stack([torch.ones(channels), sign * values])
    return torch.stack([values, torch.zeros(channels)]) if commutes else None


def _batch_norm_step(parameters: list[Tensor | None], epsilon: float, channels: int) -> Tensor:
    """What ATen multiplies by and adds, read off its own results: at 1 without mean and bias, and at 0."""
    scale, bias, mean, variance = (None if p is None else p.detach() for p in parameters)

    def at(value: float, center: Tensor, offset: Tensor | None) -> Tensor:
        # A whole small map: on single pixels ATen's batch norm takes a code path that rounds differently.
        maps = torch.full((2, channels, 4, 8), value)
        result = torch.nn.functional.batch_norm(maps, center, variance, scale, offset, eps=epsilon)
        return result[0, :, 0, 0]

    assert mean is not None
    return torch.stack([at(1.0, torch.zeros_like(mean), None), at(0.0, mean, bias)])


def _shortcut(addition: Node | None, source: Node) -> Node | None:
    """The other operand of `addition`, if it is a float map of the same shape as `source`."""
    if addition is None or not is_call(addition, aten.add.Tensor) or addition.kwargs:
        return None
    other = addition.args[1] if addition.args[0] is source else addition.args[0]
    if not isinstance(other, Node) or other is source or not isinstance(other.meta.get("val"), Tensor):
        return None
    mine, theirs = source.meta["val"], other.meta["val"]
    same = mine.dim() == theirs.dim() == 4 and theirs.dtype == torch.float32
    # Symbolic sizes that an addition accepts are equal unless one of them is a plain 1.
    return (
        other
        if same and all(_is_one(a) == _is_one(b) for a, b in zip(mine.shape, theirs.shape, strict=True))
        else None
    )


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _read_shortcut(node: Node, channels: int) -> tuple[list[Node], int, int]:
    """The stored tensors behind a shortcut, and the pooling or upsampling with which they are read."""
    node = _behind_channel_change(node, channels)
    source = node.args[0] if node.args else None
    if is_call(node, aten.max_pool2d.default) and isinstance(source, Node):
        kernel, *rest = node.args[1:]
        stride, padding, dilation, ceil_mode = [*rest, *([], [0, 0], [1, 1], False)[len(rest) :]]
        window = _same(kernel)
        plain = _same(stride or kernel) == window and _same(padding) == 0 and _same(dilation) == 1
        if window and plain and not ceil_mode:
            return _parts(source), int(window), 1
    if is_call(node, aten.upsample_nearest2d.vec) and isinstance(source, Node) and node.args[1] is None:
        factor = _same(node.args[2])
        if factor and factor == int(factor):
            return _parts(source), 1, int(factor)
    return _parts(node), 1, 1


def _parts(node: Node) -> list[Node]:
    """What a concat of channels, or of such concats, joins; `node` itself where it is none."""
    if is_call(node, aten.cat.default) and node.args[1:] in ((1,), (-3,)):
        return [part for source in node.args[0] for part in _parts(source)]  # type: ignore[union-attr]
    return [node]


def _behind_channel_change(node: Node, channels: int) -> Node:
    """Through a repetition of channels, or the mean over groups of them."""
    source = node.args[0] if node.args else None
    if not isinstance(source, Node):
        return node
    if is_call(node, aten.repeat.default):
        counts = list(node.args[1])  # type: ignore[arg-type]
        if len(counts) == 4 and counts[0] == 1 and counts[2:] == [1, 1]:
            return source
    if is_call(node, aten.mean.dim) and list(node.args[1]) == [1] and len(node.args) == 2 and not node.kwargs:  # type: ignore[arg-type]
        whole = source.args[0] if source.args else None
        if is_call(source, aten.unflatten.int) and isinstance(whole, Node) and source.args[1] == 1:
            sizes = list(source.args[2])  # type: ignore[arg-type]
            if len(sizes) == 2 and sizes[1] == channels:
                return whole
    return node


def _same(values: Any) -> float:
    """The one value of a number or of a pair of equal numbers; 0 otherwise."""
    listed = list(values) if isinstance(values, list | tuple) else [values]
    return listed[0] if listed and all(value == listed[0] for value in listed) else 0


def attach_bits(module: GraphModule) -> bool:
    """Applies the second rule: packs of a stream become planes of its second output."""
    changed = False
    for node in list(module.graph.nodes):
        if not is_call(node, *STREAMS):
            continue
        value = next(user for user in node.users if user.args[1] == 0)
        packs = [user for user in value.users if is_plain_pack(user)]
        if not packs:
            continue
        thresholds = torch.stack([threshold_of(module, pack) for pack in packs])
        channels = channels_of(value)
        words = -(-channels // 32)
        graph = module.graph
        with graph.inserting_before(node):
            argument = 3 if is_call(node, mbu.stem_stream.default) else 4
            node.update_arg(argument, constant_node(module, thresholds, "threshold"))
        with graph.inserting_after(value):
            planes = graph.call_function(operator.getitem, (node, 1))
        planes.meta["segments"] = (channels,) * len(packs)
        for place, pack in enumerate(packs):
            bits = planes
            if len(packs) > 1:
                with graph.inserting_before(pack):
                    bits = graph.call_function(
                        aten.slice.Tensor, (planes, 3, place * words, (place + 1) * words)
                    )
                bits.meta["segments"] = (channels,)
            pack.replace_all_uses_with(bits)
            graph.erase_node(pack)
        changed = True
    if changed:
        finish(module)
    return changed
