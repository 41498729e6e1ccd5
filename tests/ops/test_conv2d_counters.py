"""Long sums: narrow counters inside the kernels must be widened before they overflow."""

from __future__ import annotations

import pytest
import torch

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits, pack_weight
from mbu_ops.backends import use_cpu_kernel

# Around every limit that a kernel has: bytes that gain 8 (31 words) or 32 (7 words) per word, or 8 per 8 words
# (240 words), signed 16-bit sums (1023 words), and 2^16 products.
WORDS = [1, 7, 8, 9, 14, 15, 31, 32, 63, 240, 241, 248, 249, 489, 1023, 1024, 2048]
PIXELS = 101  # full registers of pixels, a part of one, and too few for one: 64 + 32 + 5


@pytest.mark.parametrize("words", WORDS)
def test_every_product_differs(kernel: str, words: int) -> None:
    """The largest count there is, in every lane: activations +1, weights -1."""
    channels, out_channels = 32 * words, 33
    bits = torch.full((1, 1, PIXELS, words), -1, dtype=torch.int32)
    planes = torch.zeros(2, out_channels, 1, 1, words, dtype=torch.int32)
    planes[1] = -1
    threshold = torch.tensor([[-channels, 1 - channels, 0] * 11], dtype=torch.int32)
    flip = torch.zeros(1, 2, dtype=torch.int32)
    with use_cpu_kernel(kernel):
        weight = F.tile_weight(planes)
        sums = F.conv2d(bits, weight, out_channels, 1)
        packed = F.conv2d_threshold(bits, weight, threshold, flip, out_channels, 1)
    assert torch.equal(sums, torch.full((1, out_channels, 1, PIXELS), -float(channels)))
    assert torch.equal(packed, R.conv2d_threshold(bits, planes, threshold, flip))


@pytest.mark.parametrize("words", [9, 13, 63, 250, 2048])
def test_random_products(kernel: str, words: int) -> None:
    torch.manual_seed(words)
    channels, out_channels = 32 * words - 3, 35
    bits = pack_bits(torch.rand(1, 1, PIXELS, channels) < 0.5)
    planes = pack_weight(torch.randint(-1, 2, (out_channels, channels, 1, 1)))
    with use_cpu_kernel(kernel):
        weight = F.tile_weight(planes)
        sums = F.conv2d(bits, weight, out_channels, 1)
    assert torch.equal(sums, R.conv2d(bits, planes))


@pytest.mark.parametrize("pixels", [*range(1, 10), 26, 27, 31, 33, 58, 59, 63, 64, 65, 90, 91, 96, 122, 123])
def test_any_number_of_pixels(kernel: str, pixels: int) -> None:
    torch.manual_seed(pixels)
    bits = pack_bits(torch.rand(1, 1, pixels, 70) < 0.5)
    planes = pack_weight(torch.randint(-1, 2, (40, 70, 1, 5)))
    threshold = torch.randint(-9, 10, (2, 40), dtype=torch.int32)
    flip = torch.randint(-(2**31), 2**31 - 1, (2, 2), dtype=torch.int32)
    with use_cpu_kernel(kernel):
        weight = F.tile_weight(planes)
        sums = F.conv2d(bits, weight, 40, (1, 5), 1, (0, 2))
        packed = F.conv2d_threshold(bits, weight, threshold, flip, 40, (1, 5), 1, (0, 2))
    assert torch.equal(sums, R.conv2d(bits, planes, padding=(0, 2)))
    assert torch.equal(packed, R.conv2d_threshold(bits, planes, threshold, flip, padding=(0, 2)))
