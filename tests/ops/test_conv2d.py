"""conv2d and conv2d_threshold against the reference, every kernel."""

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

INT32 = torch.iinfo(torch.int32)
CHANNELS = st.sampled_from([1, 3, 31, 32, 33, 64, 70, 96, 129])


def random_bits(*shape: int) -> Tensor:
    """Packed activations [N, H, W, Cw] for the shape (N, C, H, W)."""
    n, c, h, w = shape
    return pack_bits(torch.rand(n, h, w, c) < 0.5)


def random_planes(out_channels: int, channels: int, kernel: tuple[int, int], density: float = 0.6) -> Tensor:
    shape = (out_channels, channels, *kernel)
    weight = torch.randint(0, 2, shape) * 2 - 1
    return pack_weight(weight * (torch.rand(shape) < density))


def random_flip(planes: int, out_channels: int) -> Tensor:
    """Half of the words 0, which kernels treat apart, else all 32 bits random: those above the last channel are ignored."""
    shape = (planes, (out_channels + 31) // 32)
    return torch.randint(INT32.min, INT32.max, shape, dtype=torch.int32) * torch.randint(
        0, 2, shape, dtype=torch.int32
    )


def check(
    kernel: str, bits: Tensor, planes: Tensor, geometry: dict[str, object], thresholds: int = 1
) -> None:
    """Both operations equal the reference bit for bit."""
    out_channels, size = planes.shape[1], list(planes.shape[2:4])
    span = int(planes.shape[2] * planes.shape[3] * planes.shape[4] * 8)
    threshold = torch.randint(-span, span + 1, (thresholds, out_channels), dtype=torch.int32)
    threshold[:, ::7] = INT32.min
    threshold[:, 3::11] = INT32.max
    flip = random_flip(thresholds, out_channels)
    with use_cpu_kernel(kernel):
        weight = F.tile_weight(planes)
        sums = F.conv2d(bits, weight, out_channels, size, **geometry)  # type: ignore[arg-type]
        packed = F.conv2d_threshold(bits, weight, threshold, flip, out_channels, size, **geometry)
    expected = R.conv2d(bits, planes, **geometry)  # type: ignore[arg-type]
    assert torch.equal(sums, expected)
    assert sums.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(packed, R.conv2d_threshold(bits, planes, threshold, flip, **geometry))


@settings(max_examples=35)
@given(data=st.data())
def test_any_layer_equals_the_reference(kernel: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    kernel_size = data.draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (1, 3), (2, 2), (7, 1)]), label="kernel")
    stride = data.draw(st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 1)]), label="stride")
    dilation = data.draw(st.sampled_from([(1, 1), (2, 2), (1, 3), (6, 9)]), label="dilation")
    padding = data.draw(st.tuples(st.integers(0, 7), st.integers(0, 10)), label="padding")
    reach = [d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    least = [max(1, r - 2 * p) for r, p in zip(reach, padding, strict=True)]
    height = data.draw(st.integers(least[0], max(least[0], 14)), label="height")
    width = data.draw(st.integers(least[1], max(least[1], 27)), label="width")
    batch, channels, out_channels = data.draw(st.integers(0, 3)), data.draw(CHANNELS), data.draw(CHANNELS)
    check(
        kernel,
        random_bits(batch, channels, height, width),
        random_planes(out_channels, channels, kernel_size),
        {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "pad_value": data.draw(st.sampled_from([0, -1]), label="pad_value"),
        },
        thresholds=data.draw(st.integers(1, 3), label="thresholds"),
    )


@pytest.mark.parametrize("pad_value", [0, -1])
@pytest.mark.parametrize(
    "channels,out_channels,height,width,size,geometry",
    [
        (64, 64, 40, 60, 3, {"padding": 1}),
        (96, 40, 33, 37, 3, {"padding": 1, "stride": 2}),
        (32, 64, 14, 14, 3, {"padding": 1}),
        (256, 32, 16, 16, 3, {"padding": 2, "dilation": 2}),
        (1024, 33, 4, 5, 1, {}),
        (5, 64, 1, 50, 3, {"padding": 1}),
        (70, 5, 50, 1, 5, {"padding": 2}),
        (64, 40, 90, 2, 3, {"padding": 1}),
        (200, 40, 700, 7, 3, {"padding": 1}),
        (32, 33, 60, 3, 5, {"padding": 2}),
        (32, 32, 3, 2, 5, {"padding": 4}),
        (64, 32, 2, 2, 3, {"padding": 6, "dilation": 6}),
        (64, 64, 3, 900, 3, {"padding": 1}),
        # Blocks of 4x4 outputs: whole, cut at both ends, more rows than a band has, one padding and the other.
        (96, 64, 16, 64, 3, {"padding": 1}),
        (70, 40, 33, 50, 3, {"padding": 1}),
        (32, 33, 203, 38, 3, {"padding": (0, 1)}),
        (288, 96, 20, 19, 3, {"padding": (1, 0)}),
        # A wide dilation: stretches of outputs that miss the same taps are passes of their own.
        (70, 40, 20, 30, 3, {"padding": 9, "dilation": 9}),
        (64, 40, 33, 40, 3, {"padding": (12, 18), "dilation": (12, 18), "stride": (1, 2)}),
        (200, 64, 32, 64, 3, {"padding": 12, "dilation": 12}),
        # Both ends of 12 and of 16 pixels miss the same taps, and those between do not.
        (33, 40, 5, 4, 1, {"padding": 4}),
        (33, 40, 5, 8, 1, {"padding": 4}),
        (33, 40, 5, 2, 3, {"padding": 6, "dilation": 1}),
    ],
)
def test_shapes_of_real_networks(
    kernel, channels, out_channels, height, width, size, geometry, pad_value
) -> None:
    bits = random_bits(2, channels, height, width)
    check(
        kernel,
        bits,
        random_planes(out_channels, channels, (size, size)),
        {**geometry, "pad_value": pad_value},
    )


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_empty_and_full_masks(kernel: str, density: float) -> None:
    check(
        kernel, random_bits(1, 40, 6, 7), random_planes(35, 40, (3, 3), density), {"padding": 1}, thresholds=2
    )


def test_a_slice_of_wider_words_needs_no_copy(kernel: str) -> None:
    wide = random_bits(3, 160, 9, 20)
    planes = random_planes(40, 64, (3, 3))
    for view in (
        wide[..., 1:3],
        wide[1:, :, ::2, 2:4],
        wide[:, ::3, 4:, :2],
        wide[:1, :, :, :2].expand(2, 9, 20, 2),
    ):
        check(kernel, view, planes, {"padding": 1})
        check(kernel, view, planes, {})


def test_channel_segments_equal_a_concat(kernel: str) -> None:
    parts = [33, 5, 64]
    activations = [torch.rand(1, 6, 6, c) < 0.5 for c in parts]
    weight = torch.randint(-1, 2, (20, sum(parts), 3, 3))
    bits = torch.cat([pack_bits(part) for part in activations], dim=-1)
    with use_cpu_kernel(kernel):
        split = F.conv2d(bits, F.tile_weight(pack_weight(weight, parts)), 20, 3, 1, 1)
        dense = F.conv2d(
            pack_bits(torch.cat(activations, -1)), F.tile_weight(pack_weight(weight)), 20, 3, 1, 1
        )
    assert torch.equal(split, dense)


def test_threads_do_not_change_a_bit(kernel: str) -> None:
    bits, planes = random_bits(2, 64, 96, 40), random_planes(96, 64, (3, 3))
    before = torch.get_num_threads()
    results = []
    try:
        with use_cpu_kernel(kernel):
            weight = F.tile_weight(planes)
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                results.append(F.conv2d(bits, weight, 96, 3, 1, 1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("transposed", [False, True])
def test_threads_that_share_a_band(kernel: str, transposed: bool) -> None:
    """A small image of many channels: each thread has its own output channels of every pixel."""
    bits, channels = random_bits(1, 70, 17, 33), 200
    planes = random_planes(channels, 70, (2, 2) if transposed else (3, 3))
    threshold, flip = torch.randint(-20, 20, (2, channels), dtype=torch.int32), random_flip(2, channels)
    geometry = (2,) if transposed else (1, 1)
    name = "conv_transpose2d_threshold" if transposed else "conv2d_threshold"
    expected = getattr(R, name)(bits, planes, threshold, flip, *geometry)
    before = torch.get_num_threads()
    try:
        with use_cpu_kernel(kernel):
            weight = F.tile_weight(planes)
            for threads in (2, 5):
                torch.set_num_threads(threads)
                found = getattr(F, name)(
                    bits, weight, threshold, flip, channels, planes.shape[2:4], *geometry
                )
                assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


def test_empty_batch_and_no_output_channels(kernel: str) -> None:
    planes = random_planes(40, 33, (3, 3))
    with use_cpu_kernel(kernel):
        weight = F.tile_weight(planes)
        assert F.conv2d(random_bits(0, 33, 8, 8), weight, 40, 3, 1, 1).shape == (0, 40, 8, 8)
        none = F.tile_weight(planes[:, :0])
        assert F.conv2d(random_bits(2, 33, 8, 8), none, 0, 3, 1, 1).shape == (2, 0, 8, 8)
        assert F.conv2d_threshold(
            random_bits(2, 33, 8, 8), none, torch.zeros(1, 0).int(), torch.zeros(1, 0).int(), 0, 3
        ).shape == (2, 6, 6, 0)
