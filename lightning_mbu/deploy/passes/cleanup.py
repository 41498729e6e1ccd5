"""Leaves of an exported graph only what computes: no guards, no in-place calls, no no-ops, constants folded."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from ..graph import aten, constant, constant_node, evaluate, finish, is_call

_NO_OPS = (aten.clone.default, aten.alias.default, aten.detach.default, aten.contiguous.default, aten.lift_fresh_copy.default)  # fmt: skip
_DROPOUTS = (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default)
_VIEWS = (aten.view.default, aten.reshape.default, aten.unsqueeze.default, aten.to.dtype, aten.expand.default)
# Writes an argument in place only in training; in evaluation it is a function of its inputs.
_FUNCTIONAL_IN_EVALUATION = (aten.batch_norm.default, aten.instance_norm.default)


def clean(module: GraphModule) -> bool:
    """All of this file, in order."""
    _remove_guards(module)
    _make_out_of_place(module)
    _remove_no_ops(module)
    _fold_constants(module)
    finish(module)
    return True


def _remove_guards(module: GraphModule) -> None:
    """Export's assertions on shapes; `PackedModel` checks its input itself, with a better message."""
    for node in list(module.graph.nodes):
        if (
            node.op == "call_function"
            and "_assert" in getattr(node.target, "__name__", "")
            and not node.users
        ):
            module.graph.erase_node(node)


def _out_of_place(target: Any) -> Any:
    """The counterpart of an in-place ATen overload, or None where there is none or it is not needed."""
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
        return None
    packet = target.overloadpacket.__name__
    if not packet.endswith("_") or target in _FUNCTIONAL_IN_EVALUATION:
        return None
    counterpart = getattr(aten, packet.rstrip("_"), None)
    return getattr(counterpart, target._overloadname, None)


def _make_out_of_place(module: GraphModule) -> None:
    for node in module.graph.nodes:
        counterpart = _out_of_place(node.target) if node.op == "call_function" else None
        if counterpart is None:
            continue
        node.target = counterpart
        written = node.args[0]
        # Whoever reads the written tensor later reads the new value.
        later = False
        for other in module.graph.nodes:
            if later and written in other.all_input_nodes:
                other.replace_input_with(written, node)
            later = later or other is node


def _remove_no_ops(module: GraphModule) -> None:
    for node in list(module.graph.nodes):
        dropped = is_call(node, *_DROPOUTS) and not node.args[2]
        if dropped or is_call(node, *_NO_OPS):
            source = node.args[0]
            assert isinstance(source, Node)
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)


def _fold_constants(module: GraphModule) -> None:
    """Computes what depends on constants alone (views of scales, for instance) once, now."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not node.all_input_nodes or not is_call(node, *_VIEWS):
            continue
        if all(constant(module, source) is not None for source in node.all_input_nodes):
            value = evaluate(node, module, {})
            with module.graph.inserting_before(node):
                folded = constant_node(module, value.detach(), "constant")
            folded.meta = dict(node.meta)
            node.replace_all_uses_with(folded)
            module.graph.erase_node(node)
