"""Small tools over `torch.fx` graphs that every pass uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

aten = torch.ops.aten
mbu = torch.ops.mbu

CONVOLUTIONS = (mbu.conv2d.default, mbu.conv_transpose2d.default)
FUSED_CONVOLUTIONS = (mbu.conv2d_threshold.default, mbu.conv_transpose2d_threshold.default)
STREAM_CONVOLUTIONS = (mbu.conv2d_stream.default, mbu.conv_transpose2d_stream.default)
STREAMS = (*STREAM_CONVOLUTIONS, mbu.stem_stream.default)
ALL_CONVOLUTIONS = CONVOLUTIONS + FUSED_CONVOLUTIONS + STREAM_CONVOLUTIONS
GEMM = mbu.gemm.default  # a linear layer: its input is one tensor, not a list
PACKED_LAYERS = (*ALL_CONVOLUTIONS, GEMM)


def is_call(node: Any, *targets: Any) -> bool:
    """Whether `node` calls one of `targets`."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


def constant(module: GraphModule, node: Any) -> Tensor | None:
    """The tensor behind a `get_attr` node; None for anything else."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def add_constant(module: GraphModule, tensor: Tensor, name: str, persistent: bool = True) -> str:
    """Registers a buffer under a free name that starts with `name`; returns that name."""
    free, count = name, 0
    while hasattr(module, free):
        count += 1
        free = f"{name}_{count}"
    module.register_buffer(free, tensor, persistent=persistent)
    return free


def constant_node(module: GraphModule, tensor: Tensor, name: str) -> Node:
    """A new `get_attr` node at the graph's current insertion point."""
    return module.graph.get_attr(add_constant(module, tensor.contiguous(), name))


def pair(value: object) -> list[int]:
    """A number, a list of one or of two, as ATen takes them -> `[height, width]`; an empty list stays empty."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * 2 if len(values) == 1 else values  # type: ignore[return-value]


def channels_of(node: Node) -> int:
    """Channels of the float tensor `[N, C, H, W]` that `node` yields."""
    return int(node.meta["val"].shape[1])


def bits_of(convolution: Node) -> list[Node]:
    """The packed tensors that a packed layer reads, joined along the channels."""
    bits = convolution.args[0]
    return [bits] if isinstance(bits, Node) else list(bits)  # type: ignore[arg-type]


def segments_of(convolution: Node) -> tuple[int, ...]:
    """Channels of every part of its input that starts at a new word."""
    return tuple(count for part in bits_of(convolution) for count in part.meta["segments"])


def is_per_channel(module: GraphModule, argument: object, channels: int) -> bool:
    """Whether `argument` is a constant that has one value for each channel, or one for all."""
    if isinstance(argument, int | float):
        return True
    tensor = constant(module, argument)
    return tensor is not None and tuple(tensor.shape) in ((), (1,), (1, channels, 1, 1), (channels, 1, 1))


def is_plain_pack(node: Any) -> bool:
    """Whether `node` is a `mbu.pack` without flips and gate."""
    return is_call(node, mbu.pack.default) and all(argument is None for argument in node.args[2:])


def threshold_of(module: GraphModule, pack: Node) -> Tensor:
    """float32 `[C]` of a `mbu.pack` node; zeros where it has none."""
    found = constant(module, pack.args[1]) if len(pack.args) > 1 else None
    source = pack.args[0] if pack.args else None
    assert isinstance(source, Node)
    return torch.zeros(channels_of(source)) if found is None else found.detach().float()


def new_pack(
    module: GraphModule, source: Node, threshold: Tensor, flip: Tensor | None = None, gate: Node | None = None
) -> Node:
    """`mbu.pack(source, threshold, flip, gate)` at the current insertion point."""
    arguments: list[Any] = [source, constant_node(module, threshold, "threshold")]
    if flip is not None:
        arguments.append(constant_node(module, flip, "flip"))
    if gate is not None:
        arguments += [None] * (3 - len(arguments)) + [gate]
    node = module.graph.call_function(mbu.pack.default, tuple(arguments))
    node.meta["segments"] = (channels_of(source),)
    return node


def finish(module: GraphModule, keep: Iterable[str] = ()) -> None:
    """Drops dead nodes and tensors that no node reads and `keep` does not name, and recompiles."""
    module.graph.eliminate_dead_code()
    module.graph.lint()
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"} | set(keep)
    for owner_name, owner in list(module.named_modules()):
        for registry in (owner._parameters, owner._buffers):
            for name in list(registry):
                if f"{owner_name}.{name}".lstrip(".") not in used:
                    delattr(owner, name)
    module.delete_all_unused_submodules()
    module.recompile()


def evaluate(node: Node, module: nn.Module, known: dict[Node, Tensor]) -> Tensor:
    """Runs one `call_function` node; its inputs are constants or in `known`."""

    def value(argument: Node) -> Any:
        if argument in known:
            return known[argument]
        found = constant(module, argument)  # type: ignore[arg-type]
        assert found is not None
        return found

    arguments = torch.fx.map_arg(node.args, value)
    options = torch.fx.map_arg(node.kwargs, value)
    assert callable(node.target)
    with torch.no_grad():
        return node.target(*arguments, **options)  # type: ignore[arg-type]
