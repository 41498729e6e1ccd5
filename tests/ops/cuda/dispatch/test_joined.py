"""Joined inputs of a convolution on a GPU: two are read where they lie, others are joined in front of it."""

from __future__ import annotations

import pytest
import torch

from mbu_ops import fallback, reference
from mbu_ops.packing import pack_weight

from .conftest import Gpu
from .test_dispatch import OPS, launched, random_bits, random_planes


@pytest.fixture(autouse=True)
def _silent_fallback(gpu: Gpu) -> None:
    """The warning of the fallback has its own test."""
    fallback._warned.add("cpu")


@pytest.mark.parametrize(
    "sizes, in_place",
    [
        ([(6, 8), (3, 4)], True),
        ([(6, 8), (6, 8)], True),
        ([(2, 3), (6, 8)], False),
        ([(6, 8), (6, 8), (3, 4)], False),
        ([(6, 8), (2, 3), (1, 8), (6, 8), (7, 9)], False),
    ],
)
def test_joined_inputs(gpu: Gpu, sizes: list[tuple[int, int]], in_place: bool) -> None:
    """Two inputs, each enlarged by a whole factor, are read where they lie; others are joined in front."""
    channels = [32 * (i + 1) - 7 * (i % 2) for i in range(len(sizes))]
    parts = [random_bits(2, *size, count) for size, count in zip(sizes, channels, strict=True)]
    joined = reference.join(parts, (6, 8))
    planes = pack_weight(torch.randint(-1, 2, (9, sum(channels), 3, 3)), segments=channels)
    layer, weight = (9, [3, 3], [1, 1], [1, 1], [1, 1], 0), OPS.tile_weight(planes)
    found = OPS.conv2d(parts, weight, *layer, [6, 8])
    dots = reference.conv2d(joined, planes, 1, 1)
    assert torch.equal(found, dots)
    if (names := launched(gpu)) or gpu.family != "none":
        assert [name.startswith("join_bits") for name in names] == ([False] if in_place else [True, False])
        assert gpu.family in names[-1] == gpu.last_kernel()
    affine, threshold = torch.tensor([0.5, 0.25])[:, None].expand(1, 2, 9).contiguous(), torch.zeros(1, 9)
    found = OPS.conv2d_stream(parts, weight, affine, [], threshold, *layer, 1, 1, False, [6, 8])
    expected = reference.stream(dots, affine, [], threshold)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    up = pack_weight(torch.randint(-1, 2, (9, sum(channels), 2, 2)), segments=channels)
    geometry = [2, 2], [0, 0], [0, 0], [1, 1]
    found = OPS.conv_transpose2d(parts, OPS.tile_weight(up), 9, [2, 2], *geometry, [6, 8])
    assert torch.equal(found, reference.conv_transpose2d(joined, up, *geometry))
    assert sum(name.startswith("join_bits") for name in launched(gpu)) == (
        0 if in_place or gpu.family == "none" else 2
    )


def test_seventeen_joined_inputs_are_torchs(gpu: Gpu) -> None:
    """More than a launch lists, as for join_bits."""
    parts = [random_bits(1, 2, 3, 32) for _ in range(17)]
    planes = random_planes(9, 17 * 32, 1)
    found = OPS.conv2d(parts, OPS.tile_weight(planes), 9, [1, 1], [1, 1], [0, 0], [1, 1], 0)
    assert torch.equal(found, reference.conv2d(torch.cat(parts, -1), planes))
    assert not [line for line in gpu.log() if line.startswith("launch")]
