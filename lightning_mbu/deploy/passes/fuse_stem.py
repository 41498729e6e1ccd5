"""The float convolution that reads the image yields bits, or a float stream and bits, in one pass over memory.

    pack(chain(conv(x)), t)  ->  stem_threshold(x, t', flip)        where packs are all that reads the convolution
    relu(affine(conv(x)))    ->  stem_stream(x, affine, ..)[0]      otherwise; packs of it are attached as planes later

The kernel sums in an order of its own, so this is exact up to the rounding of a float sum; `verify` checks that
apart from the bits behind it.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from mbu_ops.packing import pack_bits
from mbu_ops.stem import tile_stem_weight

from ..graph import aten, channels_of, constant, constant_node, finish, is_call, is_plain_pack, mbu, pair
from ..thresholds import float_thresholds
from .fold_thresholds import bit_function, pack_readers, replace_readers
from .fuse_streams import affine_steps, behind_relu

# With more channels than these a float convolution gains nothing from fusing, and ATen's kernel is as good.
_MOST_CHANNELS = 16


def fuse_stems(module: GraphModule) -> bool:
    """Applies both rules; returns whether anything changed."""
    changed = False
    for node in list(module.graph.nodes):
        if is_call(node, aten.conv2d.default):
            changed = _fuse(module, node) or changed
    if changed:
        finish(module)
    return changed


def _fuse(module: GraphModule, convolution: Node) -> bool:
    _, weight_node, *rest = convolution.args
    bias_node, stride, padding, dilation, groups = [*rest, *(None, [1, 1], [0, 0], [1, 1], 1)[len(rest) :]]
    weight, bias = constant(module, weight_node), constant(module, bias_node)
    if weight is None or (bias_node is not None and bias is None) or groups != 1:
        return False
    if weight.shape[1] > _MOST_CHANNELS or weight.dtype != torch.float32:
        return False
    geometry = [pair(value) for value in (stride, padding, dilation)]
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    return _to_bits(module, convolution, weight, bias, geometry) or _to_stream(
        module, convolution, weight, bias, geometry
    )


def _to_bits(
    module: GraphModule, convolution: Node, weight: Tensor, bias: Tensor | None, geometry: list[list[int]]
) -> bool:
    readers = pack_readers(module, convolution, ())
    if not readers:
        return False
    planes: dict[tuple, tuple[Tensor, Tensor]] = {}
    keys = []
    for reader in readers:
        is_set = bit_function(module, convolution, reader)
        threshold, flip = float_thresholds(
            lambda sums, f=is_set: f(sums if bias is None else sums + bias), channels_of(convolution)
        )
        keys.append((tuple(threshold.tolist()), tuple(flip.tolist())))
        planes.setdefault(keys[-1], (threshold, flip))
    graph = module.graph
    with graph.inserting_before(convolution.next):
        thresholds = constant_node(module, torch.stack([t for t, _ in planes.values()]), "threshold")
        flips = constant_node(module, torch.stack([pack_bits(f) for _, f in planes.values()]), "flip")
        tiled = constant_node(module, tile_stem_weight(weight), "stem_weight")
        fused = graph.call_function(
            mbu.stem_threshold.default, (convolution.args[0], tiled, thresholds, flips, *geometry)
        )
    replace_readers(module, convolution, fused, readers, keys, list(planes))
    return True


def _to_stream(
    module: GraphModule, convolution: Node, weight: Tensor, bias: Tensor | None, geometry: list[list[int]]
) -> bool:
    channels = channels_of(convolution)
    last, steps = affine_steps(module, convolution, channels)
    if bias is not None:
        steps.insert(0, torch.stack([torch.ones(channels), bias]))
    last, relu = behind_relu(last)
    if last is convolution and not any(is_plain_pack(user) for user in convolution.users):
        return False
    affine = torch.stack(steps) if steps else torch.empty(0, 2, channels)
    graph = module.graph
    with graph.inserting_after(last):
        value = graph.call_function(operator.getitem, (convolution, 0))  # its input follows below
    with graph.inserting_before(value):
        tiled = constant_node(module, tile_stem_weight(weight), "stem_weight")
        stream = graph.call_function(
            mbu.stem_stream.default,
            (convolution.args[0], tiled, constant_node(module, affine, "affine"), None, *geometry, relu),
        )
    value.meta["val"] = last.meta["val"]
    value.args = (stream, 0)
    last.replace_all_uses_with(value)
    return True
