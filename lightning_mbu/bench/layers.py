"""Every packed convolution of a network by itself: time, rate, and how near it comes to what the kernel can do.

The ceiling is the best rate that the kernel in use reaches on layers made to suit it: many channels, many output
channels, few pixels, so that weights and bits stay in the caches and what surrounds the inner loop vanishes.
Measuring it through the same operation needs no second copy of any kernel's inner loop, holds for every kernel
that is added later, and meets the clock frequency of the moment: ceiling and layers are timed in the same rounds.
It is the kernel's own limit, not the processor's; another kernel may have a higher one, and `ops/bench/popcount_rates.cpp` and
`amx_rates.cpp` show what the instructions give from registers. Layers without zeros have their
own, where the kernel needs fewer instructions for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

import mbu_ops.functional as F
from mbu_ops.backends import cpu_kernels
from mbu_ops.packing import pack_weight, unpack_weight

from ..deploy import PackedModel
from ..deploy.graph import FUSED_CONVOLUTIONS, is_call
from ..timing import time_interleaved

_KINDS = ("masked", "binary")
# channels, output channels, height and width, kernel: no padding, so that no border class is computed.
_IDEAL = ((1024, 256, 24, 1), (512, 512, 26, 3), (256, 256, 50, 3), (512, 256, 50, 3), (2048, 64, 24, 1))


@dataclass(frozen=True)
class LayerTime:
    """One packed convolution.

    Attributes:
        name: of the trained layer.
        shape: what it does, such as `3x3 64->128 @ 256x256` (output pixels); `up` where it is transposed.
        macs: multiply-adds of the float layer.
        ms, quartiles_ms: median and quartiles of its time.
        rate: multiply-adds per nanosecond.
        share: of the ceiling, 0 to 1.
        output: `"bits"` or `"float"`; of a stream in fewer bits, its type.
        weights: `"masked"`, or `"binary"` without zeros.
    """

    name: str
    shape: str
    macs: int
    ms: float
    quartiles_ms: tuple[float, float]
    rate: float
    share: float
    output: str
    weights: str


def measure_layers(packed: PackedModel, example: Tensor, repeats: int = 11) -> dict[str, Any]:
    """Times every packed convolution on the bits that it meets in the network.

    Args:
        packed: result of `convert`.
        example: float32 `[N, C, H, W]`.
        repeats: rounds.

    Returns:
        Plain types: `layers`, `ceilings` (of masked and of binary layers, multiply-adds per ns), `kernel`, `network_ms` (the
        whole network, eager).
    """
    with torch.no_grad():
        recorder = _Recorder(packed)
        recorder.run(example)
        ideal = {(kind, *shape): _ideal(kind, *shape) for kind in _KINDS for shape in _IDEAL}
        calls: dict[str, Callable[[], Any]] = {str(key): call for key, (call, _) in ideal.items()}
        nodes = {f"{index} {layer.name}": node for index, (node, layer) in enumerate(recorder.layers.items())}
        calls |= {name: recorder.calls[node] for name, node in nodes.items()}
        calls["network"] = lambda: packed(example)
        times = time_interleaved(calls, repeats, min_time_s=0.002)
    # The fastest round: a ceiling that a busy moment has lowered would flatter the layers.
    ceilings = {
        kind: max(macs / times[str(key)].min / 1e6 for key, (_, macs) in ideal.items() if key[0] == kind)
        for kind in _KINDS
    }
    found = []
    for name, node in nodes.items():
        time, (macs, shape) = times[name], recorder.sizes[node]
        rate, kind = macs / time.median / 1e6, recorder.kinds[node]
        found.append(
            LayerTime(
                recorder.layers[node].name,
                shape,
                macs,
                time.median,
                time.spread,
                rate,
                rate / ceilings[kind],
                recorder.outputs[node],
                kind,
            )
        )
    kernel = next(kernel.name for kernel in cpu_kernels() if kernel.selected)
    return {
        "kernel": kernel,
        "ceilings": ceilings,
        "network_ms": times["network"].median,
        "layers": [asdict(layer) for layer in found],
    }


class _Recorder(Interpreter):
    """Runs the network once and keeps, for each packed convolution, the call with its real inputs."""

    def __init__(self, packed: PackedModel):
        super().__init__(packed.graph_module)
        self.layers = packed.convolution_nodes()
        self.graph_of = packed.graph_module
        self.calls: dict[Node, Callable[[], Any]] = {}
        self.sizes: dict[Node, tuple[int, str]] = {}
        self.kinds: dict[Node, str] = {}
        self.outputs: dict[Node, str] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.layers:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            target: Any = n.target
            self.calls[n] = lambda: target(*args, **kwargs)
            self.sizes[n] = self._size(n, args[0], kwargs.get("size", ()), result)
            self.kinds[n] = self._kind(n)
            self.outputs[n] = self._output(n, result)
        return result

    def _kind(self, node: Node) -> str:
        layer = self.layers[node]
        weight = unpack_weight(getattr(self.graph_of, layer.planes), sum(layer.segments), layer.segments)
        return "masked" if (weight == 0).any() else "binary"

    def _output(self, node: Node, result: Tensor | tuple[Tensor, Tensor]) -> str:
        if is_call(node, *FUSED_CONVOLUTIONS):
            return "bits"
        stream = result if isinstance(result, Tensor) else result[0]
        return "float" if stream.dtype == torch.float32 else str(stream.dtype).removeprefix("torch.")

    def _size(
        self, node: Node, bits: Sequence[Tensor], size: Sequence[int], result: Tensor | tuple[Tensor, Tensor]
    ) -> tuple[int, str]:
        planes = getattr(self.graph_of, self.layers[node].planes)
        _, out_channels, kernel_h, kernel_w, _ = planes.shape
        channels = sum(self.layers[node].segments)
        result = result if isinstance(result, Tensor) else result[0]
        height, width = result.shape[1:3] if is_call(node, *FUSED_CONVOLUTIONS) else result.shape[2:]
        transposed = "transpose" in str(node.target)
        # A transposed layer spreads every input pixel, an ordinary one gathers for every output pixel.
        rows, columns = (size or bits[0].shape[1:3]) if transposed else (height, width)
        pixels = bits[0].shape[0] * rows * columns
        macs = pixels * channels * out_channels * kernel_h * kernel_w
        kind = "up " if transposed else ""
        return macs, f"{kind}{kernel_h}x{kernel_w} {channels}->{out_channels} @ {height}x{width}"


def _ideal(
    kind: str, channels: int, out_channels: int, size: int, kernel: int
) -> tuple[Callable[[], Tensor], int]:
    bits = torch.randint(-(2**31), 2**31 - 1, (1, size, size, channels // 32), dtype=torch.int32)
    shape = (out_channels, channels, kernel, kernel)
    values = torch.randint(-1, 2, shape) if kind == "masked" else 2 * torch.randint(0, 2, shape) - 1
    weight = F.tile_weight(pack_weight(values))
    threshold = torch.zeros(1, out_channels, dtype=torch.int32)
    flip = torch.zeros(1, out_channels // 32, dtype=torch.int32)
    macs = (size - kernel + 1) ** 2 * channels * out_channels * kernel**2
    return lambda: F.conv2d_threshold(bits, weight, threshold, flip, out_channels, kernel), macs
