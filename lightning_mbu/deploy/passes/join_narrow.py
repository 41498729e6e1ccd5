"""Parts of few channels, joined bit by bit in front of a convolution: each fills its last word, not with zeros.

    conv2d([a, b, c])  ->  conv2d([join_bits([a, b, c], channels)])    12 + 12 + 24 channels: two words for three

What a convolution reads costs as many words as there are, empty or full. Joining them is a pass over memory, so it
happens where the words that the convolution no longer multiplies outnumber those that are moved.
"""

from __future__ import annotations

from itertools import groupby

from torch.fx import GraphModule, Node

from mbu_ops.packing import WORD_BITS, words_of

from ..graph import ALL_CONVOLUTIONS, bits_of, constant, finish, is_call, mbu


def join_narrow(module: GraphModule) -> bool:
    """Joins neighbouring parts wherever that pays; returns whether any were."""
    joined: dict[tuple[Node, ...], Node] = {}
    changed = False
    for node in module.graph.nodes:
        # With a size, parts of several resolutions meet.
        if not is_call(node, *ALL_CONVOLUTIONS) or node.kwargs.get("size"):
            continue
        inputs: list[Node] = []
        for narrow, run in groupby(bits_of(node), key=_is_narrow):
            parts = tuple(run)
            if not narrow or not _pays(module, node, parts, parts in joined):
                inputs += parts
                continue
            if parts not in joined:
                channels = [part.meta["segments"][0] for part in parts]
                with module.graph.inserting_before(node):
                    joined[parts] = module.graph.call_function(mbu.join_bits.default, (list(parts), channels))
                joined[parts].meta["segments"] = (sum(channels),)
            inputs.append(joined[parts])
            changed = True
        node.args = (inputs, *node.args[1:])
    if changed:
        finish(module)
    return changed


def _is_narrow(part: Node) -> bool:
    """Whether its last word has room."""
    segments = part.meta["segments"]
    return len(segments) == 1 and segments[0] % WORD_BITS != 0


def _pays(module: GraphModule, convolution: Node, parts: tuple[Node, ...], is_joined: bool) -> bool:
    """Whether the words that `convolution` saves for a pixel of its input are at least those read and written."""
    channels = [part.meta["segments"][0] for part in parts]
    before, after = sum(words_of(count) for count in channels), words_of(sum(channels))
    weight = constant(module, convolution.args[1])
    assert weight is not None
    _, out_channels, *kernel, _ = weight.shape
    saved: float = (before - after) * kernel[0] * kernel[1] * words_of(out_channels)
    target = convolution.target
    if "transpose" not in str(target):
        names = [argument.name for argument in target._schema.arguments]  # type: ignore[union-attr]
        height, width = convolution.args[names.index("stride")]  # type: ignore[misc]
        saved /= int(height) * int(width)  # type: ignore[arg-type]
    return after < before and saved >= (0 if is_joined else before + after)
