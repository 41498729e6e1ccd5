"""Weights without a zero, whose masks need not be read: the reference's results, every kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mbu_ops import functional as F
from mbu_ops import pack_bits, pack_weight
from mbu_ops import reference as R
from mbu_ops.backends import cpu_kernels, use_cpu_kernel

BINARY = 8  # place of the flag in the header of a tiled weight


def binary(out_channels: int, channels: int, *kernel: int) -> Tensor:
    return torch.randint(0, 2, (out_channels, channels, *kernel)) * 2 - 1


def random_bits(*shape: int) -> Tensor:
    return pack_bits(torch.rand(shape) < 0.5)


# kernel, stride, padding, dilation, pad_value; the width has tiles of 12, 8, 4 and fewer pixels
@pytest.mark.parametrize(
    "geometry",
    [
        (3, 1, 1, 1, 0),
        (3, 2, 1, 1, -1),
        (1, 1, 0, 1, 0),
        (5, 1, 2, 1, 0),
        (3, 1, 2, 2, 0),
        ((2, 4), 1, 0, 1, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [32, 64, 96])
@pytest.mark.parametrize("out_channels", [40, 64])
def test_convolutions(kernel: str, geometry: tuple, channels: int, out_channels: int) -> None:
    torch.manual_seed(0)
    size, *rest = geometry
    weight = binary(out_channels, channels, *((size, size) if isinstance(size, int) else size))
    planes, bits = pack_weight(weight), random_bits(2, 7, 31, channels)
    threshold = torch.randint(-40, 41, (2, out_channels), dtype=torch.int32)
    flip = random_bits(2, out_channels)
    affine = torch.tensor([[0.5, 0.25]])[:, :, None].expand(1, 2, out_channels).contiguous()
    with use_cpu_kernel(kernel):
        tiled = F.tile_weight(planes)
        sums = F.conv2d(bits, tiled, out_channels, size, *rest)
        result = F.conv2d_threshold(bits, tiled, threshold, flip, out_channels, size, *rest)
        stream = F.conv2d_stream(bits, tiled, affine, [], threshold.float(), out_channels, size, *rest)
    dots = R.conv2d(bits, planes, *rest)
    assert torch.equal(sums, dots)
    assert torch.equal(result, R.conv2d_threshold(bits, planes, threshold, flip, *rest))
    expected = R.stream(dots, affine, [], threshold.float())
    assert torch.equal(stream[0], expected[0])
    assert torch.equal(stream[1], expected[1])


def test_joined_and_transposed(kernel: str) -> None:
    torch.manual_seed(0)
    parts = [random_bits(1, 6, 13, 64), random_bits(1, 6, 13, 32)]
    planes, up = pack_weight(binary(64, 96, 3, 3)), pack_weight(binary(40, 64, 2, 2))
    with use_cpu_kernel(kernel):
        sums = F.conv2d(parts, F.tile_weight(planes), 64, 3, 1, 1)
        larger = F.conv_transpose2d(parts[0], F.tile_weight(up), 40, 2, 2)
    assert torch.equal(sums, R.conv2d(torch.cat(parts, -1), planes, 1, 1))
    assert torch.equal(larger, R.conv_transpose2d(parts[0], up, 2))


def test_which_weights_are_binary() -> None:
    """Not those with one zero, nor those whose channels leave bits of a word that an input may have set."""
    whole, short = pack_weight(binary(33, 64, 3, 3)), pack_weight(binary(33, 40, 3, 3))
    zero = binary(33, 64, 3, 3)
    zero[32, 63, 2, 2] = 0
    for kernel in cpu_kernels():
        if kernel.available:
            with use_cpu_kernel(kernel.name):
                flags = [int(F.tile_weight(planes)[BINARY]) for planes in (whole, pack_weight(zero), short)]
            assert flags == [1, 0, 0], kernel.name
