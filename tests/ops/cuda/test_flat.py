"""Packing, pooling, upsampling, first and last layer on the emulator, from source and from PTX."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from emulator import flat

from mbu_ops import reference
from mbu_ops.packing import pack_bits, unpack_bits, words_of

LIMITS = torch.iinfo(torch.int32)


@pytest.fixture(params=["from_source", "from_ptx"])
def library(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def random_bits(random, *shape: int, gap: int = 0) -> torch.Tensor:
    """Packed activations ``[N, H, W, ceil(C/32)]`` of the given N, H, W, C; ``gap`` words lie between pixels."""
    words = pack_bits(torch.rand(shape, generator=random) < 0.5)
    wide = torch.full((*words.shape[:3], words.shape[3] + gap), 0x5A5A5A5A, dtype=torch.int32)
    wide[..., : words.shape[3]] = words
    return wide[..., : words.shape[3]]


@pytest.mark.parametrize("name", ["pack_channels__sm75", "pack_pixels__sm75"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize("channels", [1, 31, 32, 70])
def test_pack(library, random, name, dtype, channels):
    x = torch.randn(2, channels, 3, 13, generator=random)
    x[0, 0, 0, :4] = torch.tensor([0.0, -0.0, 0.0 if dtype == torch.int8 else float("nan"), float("-inf")])
    x = reference.narrow(x, dtype)
    views = [x, x.contiguous(memory_format=torch.channels_last), x[:, :, ::2, 1:], x.transpose(2, 3)]
    threshold = torch.randn(channels, generator=random)
    threshold[0] = reference.widen(x)[1, 0, 1, 2]  # met exactly
    flip = torch.randint(LIMITS.min, LIMITS.max, (words_of(channels),), generator=random).to(torch.int32)
    for view, (t, f) in zip(
        views, [(None, None), (threshold, None), (threshold, flip), (None, flip)], strict=True
    ):
        assert torch.equal(flat.pack(library, name, view, t, f), reference.pack(view, t, f))
    t, f = torch.stack([threshold, threshold + 0.5, -threshold]), torch.stack([flip, ~flip, flip])
    assert torch.equal(flat.pack(library, name, x, t, f), reference.pack(x, t, f))
    assert torch.equal(flat.pack(library, name, x, t, None), reference.pack(x, t))


@pytest.mark.parametrize("channels", [1, 33, 64])
def test_unpack(library, random, channels):
    bits = random_bits(random, 2, 5, 9, channels, gap=1)
    values = flat.unpack(library, "unpack__sm75", bits, channels)
    assert torch.equal(values, reference.unpack(bits, channels))


@pytest.mark.parametrize("channels", [(12, 12, 24), (1, 31, 33, 64, 7), (40,), (5,) * 16, (70, 26, 32)])
def test_join_bits(library, random, channels):
    parts = [random_bits(random, 2, 3, 5, count) for count in channels]
    joined = flat.join_bits(library, "join_bits__sm75", torch.cat(parts, -1), channels)
    assert torch.equal(joined, reference.join_bits(parts, channels))


@pytest.mark.parametrize(
    "size, stride, padding, dilation, ceil_mode",
    [
        ((2, 2), (2, 2), (0, 0), (1, 1), False),
        ((3, 3), (2, 2), (1, 1), (1, 1), False),
        ((3, 2), (2, 3), (1, 0), (1, 2), True),
    ],
)
@pytest.mark.parametrize("name, channels", [("max_pool2d_v4__sm75", 256), ("max_pool2d_v1__sm75", 70)])
def test_max_pool2d(library, random, name, channels, size, stride, padding, dilation, ceil_mode):
    bits = random_bits(random, 2, 7, 10, channels, gap=4)
    arguments = (bits, size, stride, padding, dilation, ceil_mode)
    assert torch.equal(flat.max_pool2d(library, name, *arguments), reference.max_pool2d(*arguments))


@pytest.mark.parametrize("factors", [(2, 2), (3, 1)])
@pytest.mark.parametrize("name, channels", [("upsample_v4__sm75", 128), ("upsample_v1__sm75", 70)])
def test_upsample(library, random, name, channels, factors):
    bits = random_bits(random, 2, 3, 5, channels)
    expected = bits.repeat_interleave(factors[0], 1).repeat_interleave(factors[1], 2)
    assert torch.equal(flat.upsample(library, name, bits, factors), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("stride, padding, dilation", [((1, 1), (1, 1), (1, 1)), ((2, 2), (3, 0), (1, 2))])
def test_stem(library, random, dtype, stride, padding, dilation):
    """Small integers, so that every order of additions gives the same sum."""
    x = torch.randint(-9, 10, (2, 3, 9, 7), generator=random).to(dtype)
    weight = torch.randint(-9, 10, (40, 3, 3, 3), generator=random).float()
    sums = F.conv2d(x.float(), weight, None, stride, padding, dilation)
    threshold = torch.randint(-30, 30, (2, 40), generator=random).float()
    threshold[0, 0] = sums[0, 0, 1, 1]
    flip = torch.randint(LIMITS.min, LIMITS.max, (2, 2), generator=random).to(torch.int32)
    bits = flat.stem(library, "stem__sm75", x, weight, threshold, flip, stride, padding, dilation)
    assert torch.equal(bits, reference._threshold(sums, threshold, flip))


@pytest.mark.parametrize("classes", [1, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_head(library, random, classes, dtype):
    bits = random_bits(random, 2, 5, 9, 70)
    weight = torch.randn(classes, 70, generator=random)
    bias = torch.randn(classes, generator=random)
    expected = bias.view(1, -1, 1, 1).expand(2, -1, 5, 9).contiguous()
    signs = unpack_bits(bits, 70).float().permute(0, 3, 1, 2) * 2 - 1
    for channel in range(70):  # the kernel's order of additions
        expected = expected + signs[:, channel : channel + 1] * weight[:, channel].view(1, -1, 1, 1)
    assert torch.equal(flat.head(library, "head__sm75", bits, weight, bias, dtype), expected.to(dtype))
    without_bias = flat.head(library, "head__sm75", bits, torch.ones(classes, 70), None, torch.float32)
    assert torch.equal(without_bias, signs.sum(1, keepdim=True).expand(-1, classes, -1, -1))
