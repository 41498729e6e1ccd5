"""The float stem against the reference, every kernel; and every kernel against every other, to the last bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits
from mbu_ops.backends import cpu_kernels, use_cpu_kernel
from mbu_ops.packing import unpack_bits
from mbu_ops.stem import untile_stem_weight


def coarse(*shape: int) -> Tensor:
    """Values of few bits, so that sums of their products are exact in every order."""
    return torch.randint(-8, 9, shape) / 8.0


@settings(max_examples=40)
@given(data=st.data())
def test_any_stem_equals_the_reference(kernel: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    channels = data.draw(st.sampled_from([1, 2, 3, 5]), label="channels")
    out_channels = data.draw(st.sampled_from([1, 16, 31, 32, 33, 64, 100]), label="out channels")
    size = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 40)), label="size")
    taps = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 7)), label="kernel")
    padding = list(data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)), label="padding"))
    stride = list(data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)), label="stride"))
    dilation = list(data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)), label="dilation"))
    if any(s + 2 * p < d * (k - 1) + 1 for s, p, d, k in zip(size, padding, dilation, taps, strict=True)):
        return
    planes, steps = data.draw(st.integers(1, 2), label="planes"), data.draw(st.integers(0, 2), label="steps")
    relu = data.draw(st.booleans(), label="relu")
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int8]), label="dtype")
    x, weight = (
        coarse(data.draw(st.integers(0, 2), label="batch"), channels, *size),
        coarse(out_channels, channels, *taps),
    )
    layout = data.draw(st.sampled_from(["planar", "channels last", "more channels last"]), label="layout")
    if layout != "planar":
        more = 1 if layout == "channels last" else 2
        x = torch.cat([x] * more, 1).contiguous(memory_format=torch.channels_last)[:, :channels]
    threshold, affine = coarse(planes, out_channels), coarse(steps, 2, out_channels)
    flip = pack_bits(torch.rand(planes, out_channels) < 0.5)
    sums = R.stem(x, weight, stride, padding, dilation)

    tiled = F.tile_stem_weight(weight)
    assert torch.equal(untile_stem_weight(tiled, out_channels), weight)
    with use_cpu_kernel(kernel):
        bits = F.stem_threshold(x, tiled, threshold, flip, stride, padding, dilation)
        y, y_bits = F.stem_stream(x, tiled, affine, threshold, stride, padding, dilation, relu, dtype)
    flips = unpack_bits(flip, out_channels)
    expected = [
        pack_bits((sums.permute(0, 2, 3, 1) >= row) ^ f) for row, f in zip(threshold, flips, strict=True)
    ]
    assert torch.equal(bits, torch.cat(expected, -1))
    expected_y, expected_bits = R.stream(sums, affine, [], threshold, relu=relu, dtype=dtype)
    assert torch.equal(y, expected_y) and torch.equal(y_bits, expected_bits)
    assert y.is_contiguous(memory_format=torch.channels_last) and y.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_a_large_result_is_that_of_its_parts(kernel: str, dtype: torch.dtype) -> None:
    """Results above some megabytes are stored past the caches."""
    torch.manual_seed(0)
    x, tiled = torch.randn(1, 3, 402, 403), F.tile_stem_weight(torch.randn(64, 3, 3, 3))
    affine, threshold = torch.randn(1, 2, 64), torch.randn(1, 64)
    with use_cpu_kernel(kernel):
        whole = F.stem_stream(x, tiled, affine, threshold, dtype=dtype)
        for row in range(0, 400, 50):
            part = F.stem_stream(x[:, :, row : row + 52], tiled, affine, threshold, dtype=dtype)
            assert torch.equal(whole[0][:, :, row : row + 50], part[0])
            assert torch.equal(whole[1][:, row : row + 50], part[1])


@pytest.mark.parametrize("threads", [1, 3])
def test_every_kernel_rounds_alike(threads: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 37, 61), torch.randn(40, 3, 7, 7)
    affine, tiled = torch.randn(1, 2, 40), F.tile_stem_weight(weight)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = []
        for kernel in cpu_kernels():
            if kernel.available:
                with use_cpu_kernel(kernel.name):
                    results.append(F.stem_stream(x, tiled, affine, None, 2, 3, relu=True)[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)
    expected = R.stream(R.stem(x, weight, 2, 3), affine, [], None, relu=True)[0]
    assert torch.allclose(results[0], expected, rtol=1e-5, atol=1e-5)


def test_a_nan_sets_no_bit(kernel: str) -> None:
    tiled = F.tile_stem_weight(torch.ones(32, 1, 1, 1))
    with use_cpu_kernel(kernel):
        bits = F.stem_threshold(
            torch.full((1, 1, 2, 2), torch.nan),
            tiled,
            torch.full((1, 32), -torch.inf),
            torch.zeros(1, 1, dtype=torch.int32),
        )
    assert not bits.any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(1, 3, 8, 8, dtype=torch.float64)}, "x is Double"),
        ({"x": torch.zeros(1, 4, 8, 8)}, "for 4 input and 40 output channels it must be"),
        ({"weight": torch.zeros(40, 3, 3, 3)}, "tile_stem_weight"),
        ({"threshold": torch.zeros(40)}, r"it must be \[T, OC\]"),
        ({"flip": torch.zeros(1, 1, dtype=torch.int32)}, "flip has shape"),
        ({"padding": -1}, "padding"),
        ({"x": torch.zeros(1, 3, 2, 8), "padding": 0}, "spans 3 in height"),
    ],
)
def test_errors_name_the_rule(change: dict, words: str) -> None:
    arguments = {
        "x": torch.zeros(1, 3, 8, 8),
        "weight": F.tile_stem_weight(torch.zeros(40, 3, 3, 3)),
        "threshold": torch.zeros(1, 40),
        "flip": torch.zeros(1, 2, dtype=torch.int32),
        "padding": 1,
    }
    with pytest.raises(RuntimeError, match=words):
        F.stem_threshold(**(arguments | change))


@pytest.mark.parametrize("dynamic", [False, True])
def test_opcheck(dynamic: bool) -> None:
    x, weight = torch.randn(2, 3, 9, 11), F.tile_stem_weight(torch.randn(40, 3, 3, 3))
    zeros, flip = torch.zeros(2, 40), torch.zeros(2, 2, dtype=torch.int32)
    geometry = ([2, 2], [1, 1], [1, 1])
    tests = ("test_schema", "test_faketensor") + (("test_aot_dispatch_dynamic",) if dynamic else ())
    torch.library.opcheck(torch.ops.mbu.stem_threshold, (x, weight, zeros, flip, *geometry), test_utils=tests)
    torch.library.opcheck(
        torch.ops.mbu.stem_stream, (x, weight, torch.rand(1, 2, 40), zeros, *geometry, True), test_utils=tests
    )
