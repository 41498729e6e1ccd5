"""A `torch.fx` graph as plain JSON, and back.

Loading runs nothing and imports nothing: a call may only name an operation of `torch.ops.aten` or `torch.ops.mbu`
that is a pure function of tensors, or an integer operation of the `operator` module on sizes.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from .guards import PackedFileError, identifier, plain_name

_NAMESPACES = ("aten", "mbu")
_OPERATORS = {
    name: getattr(operator, name)
    for name in (
        "add",
        "sub",
        "mul",
        "floordiv",
        "truediv",
        "mod",
        "neg",
        "getitem",
        "eq",
        "le",
        "lt",
        "ge",
        "gt",
    )
}
_ENUMERATIONS: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}


def graph_to_json(graph: Graph) -> list[list[Any]]:
    """Nodes in order, each `[op, target, args, kwargs]`.

    Raises:
        ValueError: the graph calls something that cannot be written down.
    """
    places = {node: place for place, node in enumerate(graph.nodes)}
    return [
        [node.op, _target_name(node), _encode(node.args, places), _encode(dict(node.kwargs), places)]
        for node in graph.nodes
    ]


def graph_from_json(nodes: list[list[Any]], buffers: dict[str, tuple[Tensor, bool]]) -> GraphModule:
    """Rebuilds the graph module.

    Args:
        nodes: see `graph_to_json`.
        buffers: name -> tensor, and whether it is saved with the module.

    Raises:
        PackedFileError: an unknown operation, a value that does not belong there, or a tensor that is missing.
    """
    graph = Graph()
    made: list[Node] = []
    for op, target, arguments, options in nodes:
        if op not in ("placeholder", "get_attr", "call_function", "output"):
            raise PackedFileError(
                f"the graph has a node of kind {op!r:.80}; only calls, constants, input and output can be read."
            )
        if op == "get_attr" and target not in buffers:
            raise PackedFileError(f"the graph reads {target!r:.80}, which the file does not hold.")
        given = _decode(arguments, made), _decode(options, made)
        _check_form(op, target, *given)
        resolved = _find_operation(target) if op == "call_function" else target
        if op == "call_function":
            _check_call(resolved, *given)
        made.append(graph.create_node(op, resolved, *given))
    kinds = [node.op for node in made]
    if kinds.count("placeholder") != 1 or kinds.count("output") != 1 or kinds[-1] != "output":
        raise PackedFileError("the graph must have one input, and one output at its end.")
    module = GraphModule(nn.Module(), Graph())
    for name, (tensor, persistent) in buffers.items():
        _register(module, name, tensor, persistent)
    module.graph = graph
    graph.lint()
    return module


def _check_form(op: str, target: Any, arguments: Any, options: Any) -> None:
    """Refuses what a node of its kind never has; torch.fx would write it into source code."""
    if not isinstance(arguments, tuple) or not isinstance(options, dict):
        raise PackedFileError(f"the graph has a node {op!r} without a list and a map of arguments.")
    if op != "call_function":
        if op != "get_attr":  # that name is one of the file's tensors
            identifier(target, f"a node of kind {op}")
        if options or len(arguments) != (op == "output"):
            raise PackedFileError(f"the graph has a node of kind {op} with arguments that it cannot take.")


def _check_call(operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Refuses options that the operation does not have, and integer operations on anything but numbers."""
    if isinstance(operation, torch._ops.OpOverload):
        unknown = set(options) - {argument.name for argument in operation._schema.arguments}
    else:
        unknown = set(options)
        if not all(isinstance(argument, Node | int | float) for argument in arguments):
            raise PackedFileError(
                f"the graph calls {operation.__name__} with {arguments!r:.80}; it takes numbers."
            )
    if unknown:
        raise PackedFileError(
            f"the graph calls {operation.__name__} with {sorted(unknown)!r:.80}, which it does not take."
        )


def _register(root: nn.Module, name: str, tensor: Tensor, persistent: bool) -> None:
    *path, last = name.split(".")
    owner = root
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    owner.register_buffer(last, tensor, persistent=persistent)


def _target_name(node: Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace in _NAMESPACES:
        return f"{node.target.namespace}.{node.target.overloadpacket.__name__}.{node.target._overloadname}"
    for name, function in _OPERATORS.items():
        if node.target is function:
            return f"operator.{name}"
    raise ValueError(
        f"the packed graph calls {node.target}, which a file cannot hold; "
        "packed models keep to ATen operations. Replace that call in the model's forward."
    )


def _find_operation(name: str) -> Any:
    namespace, packet, *overload = plain_name(name, "an operation").split(".")
    if namespace == "operator" and packet in _OPERATORS:
        return _OPERATORS[packet]
    found = None
    if namespace in _NAMESPACES:
        found = getattr(
            getattr(getattr(torch.ops, namespace), packet, None), overload[0] if overload else "", None
        )
    if not isinstance(found, torch._ops.OpOverload):
        raise PackedFileError(f"the graph calls {name!r}, an operation that this version does not have.")
    takes = [str(argument.type) for argument in found._schema.arguments]
    # Refuses what could reach outside the graph: from_file takes a name and no tensor, in-place calls write.
    if not any("Tensor" in kind for kind in takes) or found._schema.is_mutable:
        raise PackedFileError(f"the graph calls {name!r}, which is not a pure function of tensors.")
    return found


def _encode(value: Any, places: dict[Node, int]) -> Any:
    if isinstance(value, Node):
        return {"node": places[value]}
    if isinstance(value, list | tuple):
        return [_encode(item, places) for item in value]
    if isinstance(value, dict):
        return {"map": {key: _encode(item, places) for key, item in value.items()}}
    for kind, enumeration in _ENUMERATIONS.items():
        if isinstance(value, enumeration):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"the packed graph holds {value!r} ({type(value).__name__}), which a file cannot hold.")


def _decode(value: Any, made: list[Node]) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item, made) for item in value)
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        if not 0 <= content < len(made):
            raise PackedFileError(f"a node reads node {content}, which does not stand before it.")
        return made[content]
    if kind == "map":
        return {key: _decode(item, made) for key, item in content.items()}
    if kind == "device":
        return torch.device(content)
    if kind == "float" and content in ("inf", "-inf"):
        return float(content)
    found = getattr(torch, content, None) if kind in _ENUMERATIONS else None
    if found is None or not isinstance(found, _ENUMERATIONS[kind]):
        raise PackedFileError(f"the graph holds {value!r}, which is not a value that this version knows.")
    return found
