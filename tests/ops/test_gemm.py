"""gemm and gemm_threshold on every CPU kernel against the reference, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mbu_ops.functional as F
from mbu_ops import pack_bits, pack_weight, reference, unpack_bits
from mbu_ops.backends import use_cpu_kernel

# leading sizes, channels, output channels: one row, a prime number of rows, tails, more rows than a band
SHAPES = [
    ((), 64, 5),
    ((1,), 1, 1),
    ((37,), 96, 33),
    ((2, 3, 11), 200, 64),
    ((1021,), 40, 70),
    ((2, 700), 256, 96),
]


def random_layer(leading: tuple[int, ...], channels: int, out_channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Packed rows, weight planes, and the float product."""
    bits = torch.rand(*leading, channels) < 0.5
    weight = torch.randint(-1, 2, (out_channels, channels))
    dots = (bits.double() * 2 - 1) @ weight.double().T
    return pack_bits(bits), pack_weight(weight[:, :, None, None]), dots.float()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_and_bits(kernel: str, shape: tuple) -> None:
    torch.manual_seed(len(shape[0]))
    bits, planes, dots = random_layer(*shape)
    oc = shape[2]
    threshold = torch.randint(-9, 10, (2, oc), dtype=torch.int32)
    flip = pack_bits(torch.rand(2, oc) < 0.5)
    with use_cpu_kernel(kernel):
        weight = F.tile_weight(planes)
        found, words = F.gemm(bits, weight, oc), F.gemm_threshold(bits, weight, threshold, flip, oc)
    assert torch.equal(found, dots)
    assert found.is_contiguous()
    assert torch.equal(reference.gemm(bits, planes), dots)
    expected = [pack_bits((dots >= row) ^ f) for row, f in zip(threshold, unpack_bits(flip, oc), strict=True)]
    assert torch.equal(words, torch.cat(expected, -1))
    assert torch.equal(reference.gemm_threshold(bits, planes, threshold, flip), words)


def test_slices_and_exchanged_dimensions_are_read_as_they_are() -> None:
    bits, planes, _ = random_layer((6, 5), 128, 40)
    wide = torch.cat([bits, bits.flip(0)], -1)
    weight = F.tile_weight(planes)
    assert torch.equal(F.gemm(wide[..., 4:], weight, 40), reference.gemm(bits.flip(0), planes))
    assert torch.equal(F.gemm(bits.transpose(0, 1), weight, 40), reference.gemm(bits, planes).transpose(0, 1))
    assert F.gemm(bits[:0], weight, 40).shape == (0, 5, 40)


def test_compiled() -> None:
    bits, planes, dots = random_layer((3, 7), 70, 36)
    weight = F.tile_weight(planes)
    compiled = torch.compile(lambda b: F.gemm(b, weight, 36) + 1, fullgraph=True, dynamic=True)
    assert torch.equal(compiled(bits), dots + 1)


def test_what_it_refuses() -> None:
    bits, planes, _ = random_layer((4,), 64, 8)
    weight = F.tile_weight(planes)
    with pytest.raises(RuntimeError, match="gemm: bits is Float; packed activations are int32"):
        F.gemm(bits.float(), weight, 8)
    with pytest.raises(RuntimeError, match="out_channels=9 but weight was tiled for 8"):
        F.gemm(bits, weight, 9)
    with pytest.raises(RuntimeError, match="bits has 1 channel words but weight was tiled for 2"):
        F.gemm(bits[:, :1], weight, 8)
    with pytest.raises(RuntimeError, match="it must be"):
        F.gemm_threshold(
            bits, weight, torch.zeros(8, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32), 8
        )
