"""conv2d_stream and conv_transpose2d_stream: the float residual stream against the reference, every kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits, pack_weight
from mbu_ops.backends import use_cpu_kernel

DTYPES = (torch.float32, torch.bfloat16, torch.int8)


def coarse(*shape: int) -> Tensor:
    """Values of few bits, so that every order of rounding gives the same result."""
    return torch.randint(-32, 33, shape) / 8.0


@settings(max_examples=40)
@given(data=st.data())
def test_any_stream_equals_the_reference(kernel: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    channels = data.draw(st.sampled_from([1, 33, 64, 96]), label="channels")
    unit = data.draw(st.sampled_from([1, 8, 20, 32]), label="unit")
    out_channels = unit * data.draw(st.sampled_from([1, 2, 4]), label="multiple")
    height, width = data.draw(st.integers(1, 9), label="height"), data.draw(st.integers(1, 40), label="width")
    transposed = data.draw(st.booleans(), label="transposed")
    n, scale = data.draw(st.integers(0, 2), label="batch"), 2 if transposed else 1
    out_height, out_width = scale * height, scale * width
    pool, upsample = data.draw(st.sampled_from([(1, 1), (2, 1), (1, scale)]), label="pool, upsample")
    parts = data.draw(
        st.sampled_from([[], [unit], [out_channels], [2 * out_channels], [out_channels, out_channels], [unit, 4 * out_channels - unit]]),
        label="parts",
    )  # fmt: skip
    residual = [
        coarse(n, part, out_height // upsample * pool + pool - 1, out_width // upsample * pool)
        for part in parts
    ]
    if data.draw(st.booleans(), label="channels_last"):
        residual = [part.contiguous(memory_format=torch.channels_last) for part in residual]
    stored = data.draw(st.sampled_from(DTYPES), label="shortcut")
    mixed = data.draw(st.booleans(), label="beside float32")
    residual = [part if mixed and i else R.narrow(part, stored) for i, part in enumerate(residual)]
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    affine = coarse(data.draw(st.integers(0, 2), label="steps"), 2, out_channels)
    planes = data.draw(st.integers(0, 2), label="planes")
    threshold = coarse(planes, out_channels) * 4 if planes else None
    relu = data.draw(st.booleans(), label="relu")
    dilation = data.draw(st.sampled_from([1, 1, 5]), label="dilation")

    bits = pack_bits(torch.rand(n, height, width, channels) < 0.5)
    weight = torch.randint(-1, 2, (out_channels, channels, *((2, 2) if transposed else (3, 3))))
    weights = pack_weight(weight)
    with use_cpu_kernel(kernel):
        tiled = F.tile_weight(weights)
        options = {"pool": pool, "upsample": upsample, "relu": relu, "dtype": dtype}
        if transposed:
            found = F.conv_transpose2d_stream(
                bits, tiled, affine, residual, threshold, out_channels, 2, 2, **options
            )
            dots = R.conv_transpose2d(bits, weights, 2)
        else:
            found = F.conv2d_stream(
                bits,
                tiled,
                affine,
                residual,
                threshold,
                out_channels,
                3,
                padding=dilation,
                dilation=dilation,
                **options,
            )
            dots = R.conv2d(bits, weights, padding=dilation, dilation=dilation)
    expected = R.stream(dots, affine, residual, threshold, **options)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert found[0].is_contiguous(memory_format=torch.channels_last) and found[0].dtype == dtype


def test_lists_may_be_left_out_as_none() -> None:
    """A compiled package hands an empty list over as None."""
    torch.manual_seed(0)
    bits, weight = pack_bits(torch.rand(1, 5, 7, 33) < 0.5), torch.randint(-1, 2, (40, 33, 3, 3))
    tiled, affine = F.tile_weight(pack_weight(weight)), torch.randn(1, 2, 40)
    layer = (40, [3, 3], [1, 1], [1, 1])
    op, transposed = torch.ops.mbu.conv2d_stream, torch.ops.mbu.conv_transpose2d_stream
    for absent in (None, []):
        found = op([bits], tiled, affine, absent, None, *layer, [1, 1], size=absent)
        again = transposed([bits], tiled, affine, absent, None, *layer, [0, 0], [1, 1], size=absent)
        expected = R.stream(R.conv2d(bits, pack_weight(weight), padding=1), affine, absent, None)
        assert torch.equal(found[0], expected[0])
        dots = R.conv_transpose2d(bits, pack_weight(weight), padding=1)
        assert torch.equal(again[0], R.stream(dots, affine, absent, None)[0])


def test_rounds_like_scale_batch_norm_and_addition_of_torch(kernel: str) -> None:
    bits, weight = (
        pack_bits(torch.rand(2, 16, 24, 64) < 0.5),
        pack_weight(torch.randint(-1, 2, (96, 64, 3, 3))),
    )
    norm = torch.nn.BatchNorm2d(96).eval()
    for tensor, spread in ((norm.weight, 1), (norm.bias, 3), (norm.running_mean, 9), (norm.running_var, 90)):
        torch.nn.init.uniform_(tensor, 0.1, spread)  # type: ignore[arg-type]
    scale, residual = torch.rand(96), torch.randn(2, 96, 16, 24)
    with torch.no_grad(), use_cpu_kernel(kernel):
        tiled = F.tile_weight(weight)
        plain = norm(F.conv2d(bits, tiled, 96, 3, padding=1) * scale.view(1, -1, 1, 1)) + residual
        maps = torch.ones(2, 96, 8, 8)
        offset = norm(0 * maps)[0, :, 0, 0]
        factor = torch.nn.functional.batch_norm(
            maps, torch.zeros(96), norm.running_var, norm.weight, None, eps=norm.eps
        )[0, :, 0, 0]
        affine = torch.stack([torch.stack([scale, torch.zeros(96)]), torch.stack([factor, offset])])
        found, _ = F.conv2d_stream(bits, tiled, affine, [residual], None, 96, 3, padding=1)
    assert torch.equal(found, plain)


def special_values() -> Tensor:
    """Values around every kind of rounding: ties both ways, carries into the exponent, the largest, infinity, NaN."""
    exact = torch.arange(0, 2**16, 8, dtype=torch.int32) << 16  # every eighth bfloat16
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    return (exact[:, None] | lower).view(torch.float32).flatten()


def test_stores_bfloat16_as_torch_does(kernel: str) -> None:
    values = special_values()
    shortcut = values.view(1, 1, -1, 96).permute(0, 3, 1, 2)
    bits, planes = (
        pack_bits(torch.zeros(1, 1, shortcut.shape[3], 32, dtype=torch.bool)),
        torch.zeros(96, 32, 1, 1),
    )
    # Thresholds on values, between them, and at both ends.
    level = values[torch.randint(len(values), (1, 96), generator=torch.Generator().manual_seed(0))]
    level[0, :6] = torch.tensor([0.5, 0.0, -0.0, torch.inf, -torch.inf, torch.nan])
    with use_cpu_kernel(kernel):
        found, packed = F.conv2d_stream(
            bits, F.tile_weight(pack_weight(planes)), torch.zeros(0, 2, 96), [shortcut], level, 96, 1,
            dtype=torch.bfloat16,
        )  # fmt: skip
    expected = (shortcut + 0.0).bfloat16()
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))
    assert torch.equal(packed, R.pack(expected, level[0]))


def test_stores_int8_as_the_reference_does(kernel: str) -> None:
    """Ties both ways, both ends and beyond, with thresholds at and around every step."""
    values = torch.cat(
        [torch.arange(-9 * 64, 9 * 64) / 64.0, torch.tensor([1e30, -1e30, torch.inf, -torch.inf])]
    )
    values = torch.cat([values, values.nextafter(torch.tensor(99.0)), values.nextafter(torch.tensor(-99.0))])
    values = torch.cat([values, values.new_zeros(-len(values) % 96)])
    shortcut = values.view(1, 1, -1, 96).permute(0, 3, 1, 2)
    bits = pack_bits(torch.zeros(1, 1, shortcut.shape[3], 32, dtype=torch.bool))
    weight = pack_weight(torch.zeros(96, 32, 1, 1))
    levels = torch.arange(-144, 144).view(3, 96) / 16.0
    levels = torch.cat([levels, levels.nextafter(torch.tensor(99.0)), torch.full((1, 96), torch.inf)])
    with use_cpu_kernel(kernel):
        found, packed = F.conv2d_stream(
            bits, F.tile_weight(weight), torch.zeros(0, 2, 96), [shortcut], levels, 96, 1, dtype=torch.int8
        )
    assert torch.equal(found, R.narrow(shortcut, torch.int8))
    assert torch.equal(packed, torch.cat([R.pack(found, level) for level in levels], -1))


@pytest.mark.parametrize("terms", [1, 2, 4])
@pytest.mark.parametrize(("pool", "upsample"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_of_shortcut(
    kernel: str, terms: int, pool: int, upsample: int, stored: torch.dtype, dtype: torch.dtype
) -> None:
    """Wide enough for the paths that keep what pixels share in registers, with one tile of channels that is not full."""
    torch.manual_seed(0)
    bits, weight = pack_bits(torch.rand(1, 12, 40, 96) < 0.5), torch.randint(-1, 2, (48, 96, 3, 3))
    size = (12 // upsample * pool, 40 // upsample * pool)
    residual = R.narrow(coarse(1, 48 * terms, *size), stored).contiguous(memory_format=torch.channels_last)
    affine, threshold = coarse(2, 2, 48), coarse(2, 48)
    options = {"pool": pool, "upsample": upsample, "dtype": dtype}
    for parts in ([residual], list(residual.split(48, 1))):
        with use_cpu_kernel(kernel):
            tiled = F.tile_weight(pack_weight(weight))
            found = F.conv2d_stream(bits, tiled, affine, parts, threshold, 48, 3, padding=1, **options)
        dots = R.conv2d(bits, pack_weight(weight), padding=1)
        expected = R.stream(dots, affine, parts, threshold, **options)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_result_is_that_of_its_parts(kernel: str, dtype: torch.dtype) -> None:
    """Results above some megabytes are stored past the caches, and their shortcuts called for ahead."""
    torch.manual_seed(0)
    bits, weight = pack_bits(torch.rand(1, 500, 260, 96) < 0.5), torch.randint(-1, 2, (64, 96, 3, 3))
    residual = R.narrow(torch.randn(1, 128, 500, 260), dtype).contiguous(memory_format=torch.channels_last)
    affine, threshold = torch.randn(2, 2, 64), torch.randn(1, 64)

    def rows(begin: int, end: int) -> tuple[Tensor, Tensor]:
        return F.conv2d_stream(
            bits[:, begin:end], tiled, affine, [residual[:, :, begin:end]], threshold, 64, 3, padding=1, dtype=dtype
        )  # fmt: skip

    with use_cpu_kernel(kernel):
        tiled = F.tile_weight(pack_weight(weight))
        whole = rows(0, 500)
        for begin in range(0, 500, 50):
            part = rows(max(begin - 1, 0), begin + 51)
            skip = begin > 0
            assert torch.equal(whole[0][:, :, begin : begin + 50], part[0][:, :, skip : skip + 50])
            assert torch.equal(whole[1][:, begin : begin + 50], part[1][:, skip : skip + 50])


def test_reads_a_narrow_stream_where_it_lies(kernel: str) -> None:
    """A shortcut of two tensors, averaged in pairs and enlarged, whose channels fill whole tiles."""
    bits, planes = (
        pack_bits(torch.rand(2, 5, 30, 64) < 0.5),
        pack_weight(torch.randint(-1, 2, (64, 64, 2, 2))),
    )
    affine = coarse(1, 2, 64)
    with use_cpu_kernel(kernel):
        tiled = F.tile_weight(planes)
        for dtype in DTYPES:
            for factor, channels in ((1, [64, 64]), (2, [64, 64]), (2, [32, 32]), (1, [96, 32]), (2, [32])):
                residual = [
                    R.narrow(torch.randn(2, part, 10 // factor, 60 // factor), dtype).contiguous(
                        memory_format=torch.channels_last
                    )
                    for part in channels
                ]
                options = {"upsample": factor, "dtype": dtype}
                found, _ = F.conv_transpose2d_stream(bits, tiled, affine, residual, None, 64, 2, 2, **options)
                expected, _ = R.stream(R.conv_transpose2d(bits, planes, 2), affine, residual, None, **options)
                assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"affine": torch.zeros(1, 2, 31)}, r"affine has shape \[1, 2, 31\]"),
        ({"affine": torch.zeros(2, 32)}, "affine has 2 dimensions"),
        ({"residual": [torch.zeros(1, 24, 4, 4)]}, "24 channels in all and the layer 32"),
        ({"residual": [torch.zeros(1, 32, 4, 5)]}, "images of 4x5 pixels, the layer 1 of 4x4"),
        ({"residual": [torch.zeros(1, 32, 4, 4).half()]}, "residual is Half"),
        ({"dtype": torch.float16}, "dtype is Half; a float stream is stored as float32, bfloat16 or int8"),
        ({"pool": 2, "upsample": 2}, "pool=2 and upsample=2"),
        ({"pool": 0}, "pool=0"),
        ({"threshold": torch.zeros(32)}, "threshold has 1 dimensions"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "bits": torch.zeros(1, 4, 4, 1, dtype=torch.int32),
        "weight": F.tile_weight(pack_weight(torch.ones(32, 32, 1, 1, dtype=torch.int8))),
        "affine": torch.zeros(1, 2, 32), "residual": [torch.zeros(1, 32, 4, 4)], "threshold": None,
        "out_channels": 32, "kernel_size": 1,
    }  # fmt: skip
    with pytest.raises(RuntimeError, match=message):
        F.conv2d_stream(**{**arguments, **change})  # type: ignore[arg-type]
