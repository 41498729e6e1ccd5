"""PackedModel: the converted network, a flat graph over `torch.ops.mbu` and ATen with its packed weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from mbu_ops.packing import pack_weight, unpack_weight

from .graph import FUSED_CONVOLUTIONS, PACKED_LAYERS, add_constant, constant, finish, is_call, segments_of
from .hub import PackedHubMixin


@dataclass(frozen=True)
class PackedLayer:
    """One packed convolution call.

    Attributes:
        name: the trained layer it comes from.
        kind: `"masked"` or `"binary"`.
        segments: input channels of each concatenated part; every part starts at a new word.
        fused: its output leaves as bits, thresholds folded in.
        planes: buffer with the neutral weight, int32 `[2, OC, KH, KW, Cw]`; the saved file holds this.
        tiles: buffer with the weight in the layout of the kernel in use (CPU) or of the device (GPU) when it was made.
        groups: as in `nn.Conv2d`.
    """

    name: str
    kind: str
    segments: tuple[int, ...]
    fused: bool
    planes: str
    tiles: str
    groups: int = 1


@dataclass(frozen=True)
class InputSpec:
    """What a packed model accepts: float32 `[N, channels, H, W]`, H and W multiples of `multiple`."""

    channels: int
    multiple: int


class PackedModel(nn.Module, PackedHubMixin):
    """A converted network for inference. Made by `convert` or `load`; `torch.compile(packed)` runs it compiled.

    Attributes:
        graph_module: the computation.
        layers: its packed convolutions, in executed order.
        input_spec: what `forward` accepts.
        rounds_streams: it stores float streams as bfloat16 although it was trained without that rounding.
    """

    def __init__(
        self,
        graph_module: GraphModule,
        layers: tuple[PackedLayer, ...],
        input_spec: InputSpec,
        *,
        rounds_streams: bool = False,
    ):
        super().__init__()
        self.graph_module = graph_module
        self.layers = layers
        self.input_spec = input_spec
        self.rounds_streams = rounds_streams
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Float32 `[N, C, H, W]` -> what the trained model returns.

        Raises:
            TypeError: not a float32 tensor.
            ValueError: wrong device, number of dimensions or channels, or a size that the network cannot halve evenly.
        """
        if not torch.compiler.is_compiling():
            self._check(x)
        return self.graph_module(x)

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"the input is {found}; a packed model takes a float32 tensor. Use x.float().")
        device = self.device
        if x.device != device:
            raise ValueError(
                f"the input is on {x.device} and the model on {device}. Use x.to({str(device)!r})."
            )
        channels, multiple = self.input_spec.channels, self.input_spec.multiple
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(f"the input has shape {tuple(x.shape)}; this model takes [N, {channels}, H, W].")
        height, width = x.shape[2:]
        if height % multiple or width % multiple:
            padded = [-(-size // multiple) * multiple for size in (height, width)]
            raise ValueError(
                f"the input is {height}x{width}; height and width must be multiples of {multiple}. "
                f"Pad the images to {padded[0]}x{padded[1]}."
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are, and inputs must be."""
        return next((buffer.device for buffer in self.buffers()), torch.device("cpu"))

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> PackedModel:
        before = self.device
        super()._apply(fn, recurse)
        if self.device != before and self.device.type != "meta":
            # Each device reads a layout of its own; on a GPU this also loads the kernels.
            self.tile_weights()
        return self

    def weight(self, layer: PackedLayer) -> Tensor:
        """The weight of `layer`, int8 `[OC, C / groups, KH, KW]`, values in {-1, 0, +1}."""
        planes = getattr(self.graph_module, layer.planes)
        return unpack_weight(planes, sum(layer.segments), layer.segments, layer.groups)

    def tile_weights(self) -> None:
        """Tiles every weight again, for the CPU kernel in use now (see `mbu_ops.backends.use_cpu_kernel`)."""
        for layer in self.layers:
            planes = getattr(self.graph_module, layer.planes)
            setattr(self.graph_module, layer.tiles, torch.ops.mbu.tile_weight(planes))

    def convolution_nodes(self) -> dict[Node, PackedLayer]:
        """Graph node -> the layer it runs."""
        by_tiles = {layer.tiles: layer for layer in self.layers}
        return {
            node: by_tiles[str(node.args[1].target)]
            for node in self.graph_module.graph.nodes
            if is_call(node, *PACKED_LAYERS)
        }

    def __repr__(self) -> str:
        fused = sum(layer.fused for layer in self.layers)
        channels, multiple = self.input_spec.channels, self.input_spec.multiple
        return (
            f"PackedModel(input=[N, {channels}, H, W] with H, W multiples of {multiple}, "
            f"{len(self.layers)} packed convolutions, {fused} of them with bits as output)"
        )


def lay_out_weights(
    module: GraphModule, kinds: dict[str, str], groups: dict[str, int]
) -> tuple[PackedLayer, ...]:
    """Gives every packed convolution of `module` its own weight buffers, in the word order that its input has.

    Args:
        module: an exported graph, after all passes.
        kinds: trained layer -> `"masked"` or `"binary"`.
        groups: trained layer -> its groups.
    """
    layers = []
    for node in module.graph.nodes:
        if not is_call(node, *PACKED_LAYERS):
            continue
        name, segments = node.meta["layer"], segments_of(node)
        planes = constant(module, node.args[1])
        assert planes is not None
        if len(segments) > 1:
            planes = pack_weight(unpack_weight(planes, sum(segments)), segments)
        stem = name.replace(".", "_")
        planes_name = add_constant(module, planes.contiguous(), f"{stem}_planes")
        tiles_name = add_constant(
            module, torch.ops.mbu.tile_weight(planes), f"{stem}_tiles", persistent=False
        )
        with module.graph.inserting_before(node):
            node.replace_input_with(node.args[1], module.graph.get_attr(tiles_name))
        fused = is_call(node, *FUSED_CONVOLUTIONS)
        layers.append(PackedLayer(name, kinds[name], segments, fused, planes_name, tiles_name, groups[name]))
    finish(module, keep=[layer.planes for layer in layers])
    return tuple(layers)
