"""Fakes: opcheck on every operation, torch.compile with dynamic shapes, torch.export."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mbu_ops.functional as F
from mbu_ops import pack_bits, pack_weight

OPS = torch.ops.mbu


def bits(*shape: int) -> Tensor:
    return pack_bits(torch.rand(shape) < 0.5)


def weight(out_channels: int, channels: int, size: int) -> Tensor:
    return F.tile_weight(pack_weight(torch.randint(-1, 2, (out_channels, channels, size, size))))


def epilogue(planes: int, out_channels: int) -> tuple[Tensor, Tensor]:
    threshold = torch.randint(-9, 9, (planes, out_channels), dtype=torch.int32)
    return threshold, torch.zeros(planes, (out_channels + 31) // 32, dtype=torch.int32)


def stream(out_channels: int, residual: tuple[int, ...]) -> tuple[Tensor, list[Tensor], Tensor]:
    return torch.rand(2, 2, out_channels), [torch.rand(residual)], torch.rand(2, out_channels)


def samples() -> dict[str, list[tuple[Any, ...]]]:
    torch.manual_seed(0)
    conv = ([3, 3], [2, 1], [1, 2], [1, 1])
    transposed = ([3, 3], [2, 2], [1, 1], [1, 0], [1, 1])
    doubling = ([2, 2], [2, 2], [0, 0], [0, 0], [1, 1])
    x = torch.randn(2, 40, 5, 6)
    return {
        "pack": [
            (x,),
            (x.contiguous(memory_format=torch.channels_last), torch.randn(40), torch.ones(2).int()),
            (x.bfloat16(), None, torch.ones(2, dtype=torch.int32)),
        ],
        "unpack": [(bits(2, 5, 6, 40), 40), (bits(0, 5, 6, 96)[..., 1:2], 7)],
        "join_bits": [
            ([bits(2, 5, 6, 40), bits(2, 5, 6, 12)], [40, 12]),
            ([bits(1, 5, 6, 96)[..., 1:2]] * 2, [7, 20]),
        ],
        "tile_weight": [(pack_weight(torch.randint(-1, 2, (33, 40, 3, 2))),)],
        "conv2d": [
            ([bits(2, 6, 7, 40)], weight(33, 40, 3), 33, *conv),
            ([bits(1, 6, 7, 40)], weight(1, 40, 3), 1, *conv, -1),
            ([bits(2, 6, 7, 40), bits(2, 3, 4, 20)], weight(33, 96, 3), 33, *conv, 0, [6, 7]),
        ],
        "conv2d_threshold": [([bits(2, 6, 7, 40)], weight(33, 40, 3), *epilogue(2, 33), 33, *conv, 0)],
        "conv_transpose2d": [([bits(2, 6, 7, 40)], weight(33, 40, 3), 33, *transposed)],
        "conv_transpose2d_threshold": [
            ([bits(2, 6, 7, 40)], weight(33, 40, 3), *epilogue(2, 33), 33, *transposed)
        ],
        "conv2d_stream": [
            ([bits(2, 6, 7, 40)], weight(33, 40, 3), *stream(33, (2, 66, 3, 9)), 33, *conv, 0, 1, 1, True),
            ([bits(2, 6, 7, 40)], weight(33, 40, 3), torch.rand(1, 2, 33), [], None, 33, *conv),
            (
                [bits(2, 6, 7, 40)],
                weight(33, 40, 3),
                torch.rand(1, 2, 33),
                [],
                None,
                33,
                *conv,
                0,
                1,
                1,
                False,
                [],
                None,
                None,
                torch.bfloat16,
            ),
        ],
        "conv_transpose2d_stream": [
            ([bits(2, 6, 7, 40)], weight(33, 40, 2), *stream(33, (2, 11, 6, 7)), 33, *doubling, 1, 2)
        ],
        "gemm": [(bits(2, 6, 7, 40), weight(33, 40, 1), 33), (bits(2, 3, 7, 96)[0, 0], weight(5, 96, 1), 5)],
        "gemm_threshold": [(bits(2, 6, 7, 40)[0], weight(33, 40, 1), *epilogue(2, 33), 33)],
        "upsample_bilinear2d": [(torch.randn(2, 5, 6, 7), [12, 21], False, 2.0, 3.0)],
        "attention": [(torch.randn(2, 1, 30, 8), torch.randn(2, 1, 20, 8), torch.randn(2, 1, 20, 9), 0.3)],
        "max_pool2d": [
            (bits(2, 6, 7, 40), [3, 3], [2, 2], [1, 1], [1, 1], False),
            (bits(2, 6, 7, 40), [3, 2], [2, 2], [1, 0], [1, 1], True),
        ],
    }


@pytest.mark.parametrize("name", samples())
def test_opcheck(name: str) -> None:
    for arguments in samples()[name]:
        torch.library.opcheck(getattr(OPS, name).default, arguments)


class Network(torch.nn.Module):
    """Every operation once, with a thermometer code sliced into planes."""

    down: Tensor
    down_threshold: Tensor
    down_flip: Tensor
    up: Tensor
    up_threshold: Tensor
    up_flip: Tensor
    join: Tensor
    join_threshold: Tensor
    join_flip: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("down", weight(40, 33, 3))
        self.register_buffer("up", weight(32, 40, 2))
        self.register_buffer("join", weight(32, 96, 1))
        self.register_buffer("last", weight(5, 32, 1))
        for name, planes, channels in (("down", 2, 40), ("up", 1, 32), ("join", 1, 32)):
            threshold, flip = epilogue(planes, channels)
            self.register_buffer(f"{name}_threshold", threshold)
            self.register_buffer(f"{name}_flip", flip)

    def forward(self, x: Tensor) -> Tensor:
        packed = F.pack(x)
        packed = F.conv2d_threshold(packed, self.down, self.down_threshold, self.down_flip, 40, 3, 1, 1)
        packed = F.max_pool2d(packed[..., :2] ^ packed[..., 2:], 2)
        small = packed
        wide = F.conv_transpose2d(packed, self.up, 32, 2, 2)
        packed = F.conv_transpose2d_threshold(packed, self.up, self.up_threshold, self.up_flip, 32, 2, 2)
        packed = F.conv2d_threshold(
            [packed, small], self.join, self.join_threshold, self.join_flip, 32, 1, size=packed.shape[1:3]
        )
        return F.conv2d(packed, self.last, 5, 1) + wide.mean(1, keepdim=True) + F.unpack(packed, 32)[:, :1]


@pytest.fixture
def network() -> Network:
    return Network().eval()


def test_compile_with_dynamic_shapes_in_one_graph(network: Network) -> None:
    # The eager backend runs the captured graph: what is tested is that tracing works with symbolic shapes.
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        torch._dynamo.utils.counters.clear()
        for shape in ((2, 33, 8, 12), (3, 33, 14, 10), (5, 33, 20, 6)):
            x = torch.randn(shape)
            result = compiled(x)
            assert torch.equal(result, network(x))
            assert result.stride() == network(x).stride()
    # torch specialises on sizes 0 and 1 only; every other size shares the graph.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_export_with_dynamic_shapes(network: Network) -> None:
    batch, height, width = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "height", "width"))
    shapes = {"x": {0: batch, 2: 2 * height, 3: 2 * width}}
    with torch.no_grad():
        program = torch.export.export(network, (torch.randn(2, 33, 8, 12),), dynamic_shapes=shapes)
        x = torch.randn(3, 33, 10, 6)
        assert torch.equal(program.module()(x), network(x))
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"mbu.pack.default", "mbu.conv2d_threshold.default", "mbu.max_pool2d.default"} <= targets
