"""Layers without zeros on a GPU: half of the products where both planes of a weight are the same."""

from __future__ import annotations

import pytest
import torch

from mbu_ops import fallback, reference
from mbu_ops.packing import pack_weight, words_of

from .conftest import Gpu
from .test_dispatch import OPS, launched, random_bits


@pytest.fixture(autouse=True)
def _silent_fallback(gpu: Gpu) -> None:
    """The warning of the fallback has its own test."""
    fallback._warned.add("cpu")


@pytest.mark.parametrize("setting", ["always", "never"])
def test_weights_without_zeros(gpu: Gpu, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their planes are multiplied once where both are the same; their size says that there is no zero."""
    monkeypatch.setenv("MBU_CUDA_GEMM", setting)
    for channels, oc, kernel in ((64, 40, 3), (512, 33, 3), (256, 70, 1), (70, 33, 3)):
        planes = pack_weight(torch.randint(0, 2, (oc, channels, kernel, kernel)) * 2 - 1)
        bits, weight = random_bits(1, 5, 6, channels), OPS.tile_weight(planes)
        assert (weight.numel() % 8 >= 4) == (channels % 32 == 0 and gpu.family != "none")
        geometry = [1, 1], [kernel // 2] * 2, [1, 1], 0
        expected = reference.conv2d(bits, planes, *geometry)
        assert torch.equal(OPS.conv2d([bits], weight, oc, [kernel] * 2, *geometry), expected)
        threshold, flip = (
            torch.zeros(1, oc, dtype=torch.int32),
            torch.zeros(1, words_of(oc), dtype=torch.int32),
        )
        found = OPS.conv2d_threshold([bits], weight, threshold, flip, oc, [kernel] * 2, *geometry)
        assert torch.equal(found, reference.conv2d_threshold(bits, planes, threshold, flip, *geometry))
        read = fallback.load_planes(weight, oc, [kernel] * 2, words_of(channels))
        assert torch.equal(read[0] & read[1], planes[0] & planes[1])
        assert torch.equal(read[1], planes[1])
        launched(gpu)
