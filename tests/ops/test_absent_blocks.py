"""Weights whose zeros fill whole blocks of 32 outputs x 32 inputs of one tap: left out, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits, pack_weight
from mbu_ops.backends import cpu_kernels, use_cpu_kernel

SKIPS = 7  # place of the flag in the header of a tiled weight


def blocked(out_channels: int, channels: int, kernel: tuple[int, int], density: float) -> Tensor:
    """{-1, 0, +1} `[OC, C, KH, KW]`, about `density` of whose blocks are present."""
    weight = torch.randint(-1, 2, (out_channels, channels, *kernel))
    blocks = torch.rand(-(-out_channels // 32), -(-channels // 32), *kernel) < density
    present = blocks.repeat_interleave(32, 0).repeat_interleave(32, 1)[:out_channels, :channels]
    return weight * present


@pytest.mark.parametrize("density", [0.0, 0.1, 0.25, 0.5, 0.97])
@pytest.mark.parametrize("out_channels,channels", [(64, 64), (100, 200), (33, 520)])
def test_convolutions(kernel: str, density: float, out_channels: int, channels: int) -> None:
    weight = blocked(out_channels, channels, (3, 3), density)
    planes, bits = pack_weight(weight), pack_bits(torch.rand(2, 9, 21, channels) < 0.5)
    threshold = torch.randint(-9, 10, (2, out_channels), dtype=torch.int32)
    flip = torch.randint(-(2**31), 2**31 - 1, (2, (out_channels + 31) // 32), dtype=torch.int32)
    with use_cpu_kernel(kernel):
        tiled = F.tile_weight(planes)
        sums = F.conv2d(bits, tiled, out_channels, 3, padding=1)
        packed = F.conv2d_threshold(bits, tiled, threshold, flip, out_channels, 3, (2, 1), 1, (1, 2))
        affine, zero = torch.ones(1, 2, out_channels), torch.zeros(1, out_channels)
        streamed, stream_bits = F.conv2d_stream(
            bits, tiled, affine, [], zero, out_channels, 3, 1, 1, relu=True
        )
    expected = R.conv2d(bits, planes, padding=1)
    assert torch.equal(sums, expected)
    assert torch.equal(packed, R.conv2d_threshold(bits, planes, threshold, flip, (2, 1), 1, (1, 2)))
    assert torch.equal(streamed, (expected + 1).relu())
    assert torch.equal(stream_bits, R.pack(streamed))


@pytest.mark.parametrize("groups", [1, 2])
def test_groups_and_joined_inputs(kernel: str, groups: int) -> None:
    weight = blocked(128, 192 // groups, (2, 3), 0.3)
    planes, x = pack_weight(weight, groups=groups), torch.rand(1, 7, 9, 192) < 0.5
    parts = [pack_bits(part) for part in x.split([64, 128], -1)]
    with use_cpu_kernel(kernel):
        sums = F.conv2d(parts, F.tile_weight(planes), 128, (2, 3), padding=(1, 0))
    assert torch.equal(sums, R.conv2d(pack_bits(x), planes, padding=(1, 0)))


def test_transposed_and_matrix_products(kernel: str) -> None:
    weight = blocked(96, 160, (2, 2), 0.25)
    planes, bits = pack_weight(weight), pack_bits(torch.rand(1, 5, 6, 160) < 0.5)
    flat = pack_weight(weight[:, :, :1, :1])
    with use_cpu_kernel(kernel):
        sums = F.conv_transpose2d(bits, F.tile_weight(planes), 96, 2, 2)
        products = F.gemm(bits, F.tile_weight(flat), 96)
    assert torch.equal(sums, R.conv_transpose2d(bits, planes, 2))
    assert torch.equal(products, R.gemm(bits, flat))


def test_which_weights_leave_words_out() -> None:
    dense = pack_weight(torch.randint(-1, 2, (100, 200, 3, 3)))
    few = dense.clone()
    few[:, :32, 0, 0, 0] = 0  # one of 4 * 9 * 7 blocks: a list per tile would cost more than it saves
    half = pack_weight(blocked(100, 200, (3, 3), 0.5))
    for kernel in cpu_kernels():
        if not kernel.available:
            continue
        with use_cpu_kernel(kernel.name):
            flags = [int(F.tile_weight(planes)[SKIPS]) for planes in (dense, few, half)]
        assert flags in ([0, 0, 1], [0, 0, 0]), kernel.name
        assert flags[2] or "int8" in kernel.name or "i8mm" in kernel.name
