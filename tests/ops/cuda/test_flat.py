"""Packing, joining, pooling and the first layer on the emulator, from source and from PTX."""

from __future__ import annotations

import pytest
import torch
from emulator import flat

from mbu_ops import functional as F
from mbu_ops import reference
from mbu_ops.packing import pack_bits, words_of

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
    gate = torch.randn(2, channels, 1, 1, generator=random)
    assert torch.equal(flat.pack(library, name, x, t, f, gate), reference.pack(x, t, f, gate))


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


@pytest.mark.parametrize("size", [(6, 8), (5, 9), (82, 2)])
def test_join_bits_of_other_sizes(library, random, size):
    """As torch's nearest, whose factor of 41 divides otherwise than integers do."""
    sizes, channels = [(6, 8), (3, 4), (2, 1), (2, 7)], (32, 64, 12, 40)
    parts = random_bits(random, 2, 6, 8, 32 + 64 + 32 + 64)
    parts[..., 3:] = random_bits(random, 2, 6, 8, 12)[..., :1]
    parts[..., 4:] = random_bits(random, 2, 6, 8, 40)
    joined = flat.join_bits(library, "join_bits__sm75", parts, channels, sizes, size)
    words = [parts[..., begin:end] for begin, end in ((0, 1), (1, 3), (3, 4), (4, 6))]
    corners = [part[:, :height, :width] for part, (height, width) in zip(words, sizes, strict=True)]
    brought = [reference.join([corner], size) for corner in corners]
    assert torch.equal(joined, reference.join_bits(brought, channels))


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


# height, width, channels, out_channels, kernel, stride, padding, dilation; the first two read values once for three columns
STEMS = [
    (5, 9, 3, 40, (3, 3), (1, 1), (1, 1), (1, 1)),
    (4, 17, 3, 70, (2, 3), (2, 1), (0, 2), (1, 1)),
    (9, 7, 3, 64, (7, 7), (2, 2), (3, 3), (1, 1)),
    (6, 11, 1, 33, (3, 3), (1, 1), (2, 1), (2, 1)),
    (5, 10, 3, 7, (3, 3), (1, 1), (1, 2), (1, 2)),
]


@pytest.mark.parametrize("layer", STEMS, ids=str)
def test_stem(library, random, layer):
    """What the kernels for processors give, to the last bit, for floats that round at every step."""
    height, width, channels, oc, kernel, *geometry = layer
    x = torch.randn(2, channels, height, width, generator=random)
    weight = torch.randn(oc, channels, *kernel, generator=random)
    tiled = F.tile_stem_weight(weight)
    affine = torch.randn(2, 2, oc, generator=random)
    threshold = torch.randn(2, oc, generator=random)
    flip = torch.randint(LIMITS.min, LIMITS.max, (2, words_of(oc)), generator=random).to(torch.int32)
    sums, _ = F.stem_stream(x, tiled, affine[:0], None, *geometry)
    threshold[0, 0] = sums[0, 0, 1, 1]  # met exactly
    for view in (x, x.to(memory_format=torch.channels_last)):
        y, bits = flat.stem(library, "stem__sm75", view, weight, None, threshold, flip, *geometry)
        assert torch.equal(bits, F.stem_threshold(x, tiled, threshold, flip, *geometry))
        assert y.numel() == 0
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        options = {"relu": dtype != torch.int8, "dtype": dtype}
        y, bits = flat.stem(library, "stem__sm75", x, weight, affine, threshold, None, *geometry, **options)
        expected = F.stem_stream(x, tiled, affine, threshold, *geometry, **options)
        assert torch.equal(y, expected[0])
        assert torch.equal(bits, expected[1])
    y, _ = flat.stem(library, "stem__sm75", x, weight, affine, None, None, *geometry, dtype=torch.float32)
    assert torch.equal(y, F.stem_stream(x, tiled, affine, None, *geometry)[0])
