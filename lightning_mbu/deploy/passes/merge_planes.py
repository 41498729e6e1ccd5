"""Several packs of one float tensor become one, which reads it once: the planes of a thermometer code, and other readers.

    pack(x, t1, gate=g), pack(x, t2, gate=g)  ->  slices of pack(x, [t1, t2], gate=g)

Last of all rules: the others know packs with one threshold per channel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from mbu_ops.packing import words_of

from ..graph import aten, channels_of, constant, finish, is_call, mbu, new_pack, threshold_of


def merge_planes(module: GraphModule) -> bool:
    """Applies the rule wherever it can; returns whether anything changed."""
    groups: dict[tuple, list[Node]] = {}
    for node in module.graph.nodes:
        if is_call(node, mbu.pack.default):
            groups.setdefault((node.args[0], _same(_gate(node))), []).append(node)
    changed = False
    for packs in groups.values():
        if len(packs) > 1:
            _merge(module, packs)
            changed = True
    if changed:
        finish(module)
    return changed


def _gate(pack: Node) -> Node | None:
    return pack.args[3] if len(pack.args) > 3 else None  # type: ignore[return-value]


def _same(gate: Node | None) -> object:
    """What equal gates have in common: a slice of one is written anew for each of its readers."""
    return gate.args if is_call(gate, aten.slice.Tensor) else gate  # type: ignore[union-attr]


def _flip(module: GraphModule, pack: Node) -> Tensor:
    found = constant(module, pack.args[2]) if len(pack.args) > 2 else None
    words = words_of(channels_of(pack.args[0]))  # type: ignore[arg-type]
    return torch.zeros(words, dtype=torch.int32) if found is None else found


def _merge(module: GraphModule, packs: list[Node]) -> None:
    first, source = packs[0], packs[0].args[0]
    assert isinstance(source, Node)
    thresholds = torch.stack([threshold_of(module, pack) for pack in packs])
    flips = torch.stack([_flip(module, pack) for pack in packs])
    with module.graph.inserting_before(first):
        merged = new_pack(module, source, thresholds, flips if flips.any() else None, _gate(first))
    merged.meta["segments"] *= len(packs)
    words = words_of(channels_of(source))
    for place, pack in enumerate(packs):
        with module.graph.inserting_before(pack):
            plane = module.graph.call_function(
                aten.slice.Tensor, (merged, 3, place * words, (place + 1) * words)
            )
        plane.meta["segments"] = pack.meta["segments"]
        pack.replace_all_uses_with(plane)
        module.graph.erase_node(pack)
