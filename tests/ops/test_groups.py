"""Grouped convolutions: planes with zeros outside a group, every kernel against torch's own grouped convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits, pack_weight, unpack_weight
from mbu_ops.backends import use_cpu_kernel

# (groups, input channels of a group, output channels of a group): words of its own; several groups in a word; groups
# across words; outputs of one group in several tiles and of several in one; depthwise.
GROUPS = [(2, 32, 32), (4, 64, 32), (3, 96, 64), (8, 8, 8), (4, 24, 40), (5, 40, 13), (2, 33, 31), (70, 1, 1)]


def layer(groups: int, own: int, outputs: int, size: int) -> tuple[Tensor, Tensor]:
    """Activations as bool `[N, H, W, C]` and a weight `[OC, C / groups, size, size]`."""
    torch.manual_seed(own)
    return torch.rand(2, 9, 14, groups * own) < 0.5, torch.randint(-1, 2, (groups * outputs, own, size, size))


@pytest.mark.parametrize("groups,own,outputs", GROUPS)
def test_equals_a_grouped_convolution_of_torch(kernel: str, groups: int, own: int, outputs: int) -> None:
    x, weight = layer(groups, own, outputs, 3)
    signs = (x.double() * 2 - 1).permute(0, 3, 1, 2)
    expected = torch.nn.functional.conv2d(signs, weight.double(), stride=(2, 1), padding=1, groups=groups)
    planes, bits = pack_weight(weight, groups=groups), pack_bits(x)
    channels = groups * outputs
    threshold = torch.randint(-9, 10, (2, channels), dtype=torch.int32)
    flip = torch.randint(-(2**31), 2**31 - 1, (2, (channels + 31) // 32), dtype=torch.int32)
    affine, fused_threshold = torch.ones(1, 2, channels), torch.zeros(1, channels)
    with use_cpu_kernel(kernel):
        tiled = F.tile_weight(planes)
        sums = F.conv2d(bits, tiled, channels, 3, (2, 1), 1)
        packed = F.conv2d_threshold(bits, tiled, threshold, flip, channels, 3, (2, 1), 1)
        streamed, stream_bits = F.conv2d_stream(
            bits, tiled, affine, [], fused_threshold, channels, 3, (2, 1), 1, relu=True
        )
    assert torch.equal(sums, expected.float())
    assert torch.equal(packed, R.conv2d_threshold(bits, planes, threshold, flip, (2, 1), 1))
    assert torch.equal(streamed, (expected + 1).relu().float())
    assert torch.equal(stream_bits, R.pack(streamed))


def test_transposed(kernel: str) -> None:
    x, weight = layer(4, 32, 8, 2)
    signs = (x.double() * 2 - 1).permute(0, 3, 1, 2)
    # torch keeps [C, OC / groups, KH, KW]; a group's own block is the transpose of ours.
    theirs = torch.cat([part.transpose(0, 1) for part in weight.double().chunk(4)])
    with use_cpu_kernel(kernel):
        sums = F.conv_transpose2d(pack_bits(x), F.tile_weight(pack_weight(weight, groups=4)), 32, 2, 2)
    assert torch.equal(sums, torch.nn.functional.conv_transpose2d(signs, theirs, stride=2, groups=4).float())


def test_a_concat_before_a_grouped_layer(kernel: str) -> None:
    x, weight = layer(3, 40, 20, 3)
    parts = [70, 50]
    bits = torch.cat([pack_bits(part) for part in x.split(parts, -1)], -1)
    with use_cpu_kernel(kernel):
        split = F.conv2d(bits, F.tile_weight(pack_weight(weight, parts, groups=3)), 60, 3, 1, 1)
        dense = F.conv2d(pack_bits(x), F.tile_weight(pack_weight(weight, groups=3)), 60, 3, 1, 1)
    assert torch.equal(split, dense)


def test_a_tile_keeps_the_words_it_meets() -> None:
    """Sixteen groups of 32 channels: every tile of 32 outputs keeps one word of sixteen."""
    _, weight = layer(16, 32, 32, 3)
    dense = torch.ones(512, 512, 3, 3, dtype=torch.int8)
    grouped, full = F.tile_weight(pack_weight(weight, groups=16)), F.tile_weight(pack_weight(dense))
    tables = 2 * 9 * 512  # two numbers for each tap and output, kept by both
    assert grouped.numel() - tables < (full.numel() - tables) / 8


@pytest.mark.parametrize("rows", [slice(40, 64), slice(32, 64)])
def test_inputs_that_nothing_reads(kernel: str, rows: slice) -> None:
    """Words of zeros at either end, and a tile that has no weight at all."""
    weight = torch.randint(-1, 2, (96, 160, 3, 3))
    weight[:, :64], weight[:, 130:], weight[rows] = 0, 0, 0
    planes, bits = pack_weight(weight), pack_bits(torch.rand(1, 6, 7, 160) < 0.5)
    with use_cpu_kernel(kernel):
        sums = F.conv2d(bits, F.tile_weight(planes), 96, 3, padding=1)
    assert torch.equal(sums, R.conv2d(bits, planes, padding=1))


def test_planes_and_back() -> None:
    for groups, own, outputs in GROUPS:
        _, weight = layer(groups, own, outputs, 2)
        planes = pack_weight(weight, [7, groups * own - 7], groups)
        assert torch.equal(
            unpack_weight(planes, groups * own, [7, groups * own - 7], groups), weight.to(torch.int8)
        )


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(
        ValueError, match="groups=3 must be at least 1 and divide the 96 input channels and 32"
    ):
        pack_weight(torch.ones(32, 32, 1, 1), groups=3)
    with pytest.raises(ValueError, match="groups=0"):
        pack_weight(torch.ones(32, 32, 1, 1), groups=0)
