"""Global averages of a concat are taken part by part, so that the concat need not be stored.

mean(concat(a, b), (2, 3)) = concat(mean(a, (2, 3)), mean(b, (2, 3)))
"""

from __future__ import annotations

from torch.fx import GraphModule, Node

from ..graph import aten, channels_of, finish, is_call


def average_parts(module: GraphModule) -> bool:
    """Applies the rule wherever nothing but averages reads the concat; returns whether it did."""
    changed = False
    for concat in list(module.graph.nodes):
        if not is_call(concat, aten.cat.default) or concat.args[1:] not in ((1,), (-3,)) or not concat.users:
            continue
        averages = list(concat.users)
        if not all(_is_global_average(node) for node in averages):
            continue
        parts = [part for part in concat.args[0] if channels_of(part)]
        for average in averages:
            with module.graph.inserting_before(average):
                means = [
                    module.graph.call_function(aten.mean.dim, (part, *average.args[1:])) for part in parts
                ]
                joined = module.graph.call_function(aten.cat.default, (means, 1))
            joined.meta["val"] = average.meta["val"]
            average.replace_all_uses_with(joined)
            module.graph.erase_node(average)
        changed = True
    if changed:
        finish(module)
    return changed


def _is_global_average(node: Node) -> bool:
    return is_call(node, aten.mean.dim) and list(node.args[1]) in ([2, 3], [-2, -1]) and not node.kwargs  # type: ignore[arg-type]
