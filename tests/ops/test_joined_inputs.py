"""Several inputs joined along the channels, and inputs enlarged on the way in: every kernel, every operation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits, pack_weight
from mbu_ops.backends import use_cpu_kernel


def random_bits(n: int, height: int, width: int, channels: int, words: slice = slice(None)) -> Tensor:
    return pack_bits(torch.rand(n, height, width, channels) < 0.5)[..., words]


def masked_weight(out_channels: int, parts: list[int], kernel: tuple[int, int]) -> Tensor:
    return pack_weight(torch.randint(-1, 2, (out_channels, sum(parts), *kernel)), parts)


@settings(max_examples=40)
@given(data=st.data())
def test_any_parts_equal_the_reference(kernel: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    n, height, width = (data.draw(st.integers(*limits)) for limits in ((0, 2), (1, 13), (1, 30)))
    channels, bits = [], []
    for _ in range(data.draw(st.integers(1, 3), label="parts")):
        count = data.draw(st.sampled_from([1, 32, 33, 64, 70, 128, 260]), label="channels")
        whole = data.draw(st.booleans(), label="of the full size")
        size = (height, width) if whole else [data.draw(st.integers(1, s)) for s in (height, width)]
        sliced = data.draw(st.booleans(), label="a slice of more words")
        wide = random_bits(n, *size, count + 64 * sliced)
        bits.append(wide[..., 1 : 1 + (count + 31) // 32] if sliced else wide)
        channels.append((count + 31) // 32 * 32)
    joined = R.join(bits, (height, width))
    out_channels = data.draw(st.sampled_from([5, 32, 40]), label="out channels")
    transposed = data.draw(st.booleans(), label="transposed")
    size = data.draw(st.sampled_from([(1, 1), (3, 3), (2, 2), (1, 3)]), label="kernel")
    stride = data.draw(st.sampled_from([(1, 1), (2, 2), (1, 3)]), label="stride")
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in size)
    planes = masked_weight(out_channels, channels, size)
    if transposed:
        for pixels, step, pad, taps in zip((height, width), stride, padding, size, strict=True):
            assume((pixels - 1) * step - 2 * pad + taps >= 1)
        run, truth = F.conv_transpose2d, R.conv_transpose2d
    else:
        for pixels, pad, taps in zip((height, width), padding, size, strict=True):
            assume(pixels + 2 * pad >= taps)
        run, truth = F.conv2d, R.conv2d
    with use_cpu_kernel(kernel):
        found = run(bits, F.tile_weight(planes), out_channels, size, stride, padding, size=(height, width))
    assert torch.equal(found, truth(joined, planes, stride, padding))


@pytest.mark.parametrize("small", [(8, 12), (5, 9), (16, 23), (1, 1), (15, 24)])
@pytest.mark.parametrize("type_", [torch.float32, torch.float64])
def test_nearest_is_that_of_torch(small: tuple[int, int], type_: torch.dtype) -> None:
    values = torch.randn(1, 32, *small)
    bits, planes = F.pack(values), pack_weight(torch.eye(32)[:, :, None, None])
    found = F.conv2d(bits, F.tile_weight(planes), 32, 1, size=(16, 24))
    assert torch.equal(found > 0, torch.nn.functional.interpolate(values.to(type_), size=(16, 24)) >= 0)


def test_thresholds_and_streams_read_parts_too(kernel: str) -> None:
    parts, size = [64, 32], (6, 10)
    bits = [random_bits(2, 6, 10, 64), random_bits(2, 3, 5, 32)]
    joined, planes = R.join(bits, size), masked_weight(40, parts, (2, 2))
    threshold, flip = torch.randint(-9, 9, (2, 40), dtype=torch.int32), torch.zeros(2, 2, dtype=torch.int32)
    affine, level = torch.randint(-8, 9, (1, 2, 40)) / 4.0, torch.randn(1, 40)
    with use_cpu_kernel(kernel):
        weight = F.tile_weight(planes)
        assert torch.equal(
            F.conv2d_threshold(bits, weight, threshold, flip, 40, 2, size=size),
            R.conv2d_threshold(joined, planes, threshold, flip),
        )
        assert torch.equal(
            F.conv_transpose2d_threshold(bits, weight, threshold, flip, 40, 2, 2, size=size),
            R.conv_transpose2d_threshold(joined, planes, threshold, flip, 2),
        )
        for found, dots in (
            (F.conv2d_stream(bits, weight, affine, [], level, 40, 2, size=size), R.conv2d(joined, planes)),
            (
                F.conv_transpose2d_stream(bits, weight, affine, [], level, 40, 2, 2, size=size),
                R.conv_transpose2d(joined, planes, 2),
            ),
        ):
            expected = R.stream(dots, affine, [], level)
            assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_threads_do_not_change_a_bit(kernel: str) -> None:
    bits = [random_bits(2, 64, 96, 32), random_bits(2, 32, 48, 70)]
    planes, before, results = masked_weight(40, [32, 70], (3, 3)), torch.get_num_threads(), []
    try:
        with use_cpu_kernel(kernel):
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                results.append(F.conv2d(bits, F.tile_weight(planes), 40, 3, padding=1, size=(64, 96)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    "bits,size,message",
    [
        ([], (), "bits is an empty list"),
        ([(1, 4, 4, 32), (2, 4, 4, 32)], (), "parts of 1 and 2 images; they must agree"),
        ([(1, 4, 4, 32), (1, 2, 4, 32)], (), r"parts of 4x4 and 2x4 pixels; give the size .*size=\[H, W\]"),
        ([(1, 4, 4, 32), (1, 0, 4, 32)], (4, 4), "a part of bits has 0x4 pixels"),
        ([(1, 4, 4, 64)], (4,), r"size has 1 values; it must be \[height, width\]"),
        ([(1, 4, 4, 64)], (4, 0), r"size=\[4, 0\]; each value must be in 1"),
        ([(1, 4, 4, 32)], (), "bits has 1 channel words but weight was tiled for 2"),
    ],
)
def test_bad_parts_are_named(bits: list[tuple[int, ...]], size: tuple[int, ...], message: str) -> None:
    weight = F.tile_weight(masked_weight(32, [64], (1, 1)))
    with pytest.raises(RuntimeError, match=message):
        F.conv2d([random_bits(*shape) for shape in bits], weight, 32, 1, size=size)
