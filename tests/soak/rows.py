"""Random calls of the operations beside convolutions: matrix products, packing, pooling, the stem."""

from __future__ import annotations

import torch
from hypothesis import assume
from hypothesis import strategies as st

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits, pack_weight, unpack_bits

from .layers import CHANNELS, INT32, OUTPUTS, Case, coarse, strided, thresholds
from .memory import put

SPECIAL = torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e-45, -1e-45, 1e-38, 6e-8, 3.4e38])


def product(case: Case) -> None:
    """gemm and gemm_threshold, any number of leading dimensions."""
    leading = case.pick("leading", st.lists(st.sampled_from([0, 1, 2, 3, 7, 37, 64, 131]), max_size=3))
    channels, out_channels = case.pick("channels", CHANNELS), case.pick("outputs", OUTPUTS)
    bits = pack_bits(torch.rand(*leading, channels) < 0.5)
    form = case.pick("layout", ["dense", "words apart", "exchanged"])
    if form == "words apart":
        bits = torch.cat([bits, bits.flip(-1)], -1)[..., : bits.shape[-1]]
    elif form == "exchanged" and len(leading) > 1:
        bits = bits.transpose(0, 1).contiguous().transpose(0, 1)
    bits = case.put(bits)
    weight = torch.randint(-1, 2, (out_channels, channels))
    planes = case.put(pack_weight(weight[:, :, None, None]))
    if case.pick("result", ["sums", "bits"]) == "sums":
        case.run(
            lambda: [F.gemm(bits, put(F.tile_weight(planes), "before a page"), out_channels)],
            [R.gemm(bits, planes)],
        )
        return
    threshold, flip = map(case.put, thresholds(case.pick("planes", [1, 2, 3]), out_channels, channels // 2))
    rows = [R.gemm(bits, planes) >= row for row in threshold]
    expected = [pack_bits(r ^ f) for r, f in zip(rows, unpack_bits(flip, out_channels), strict=True)]
    case.run(
        lambda: [
            F.gemm_threshold(bits, put(F.tile_weight(planes), "before a page"), threshold, flip, out_channels)
        ],
        [torch.cat(expected, -1)],
    )


def packing(case: Case) -> None:
    """pack of any float type and layout, special values among them; unpack of its bits and of slices."""
    channels = case.pick("channels", st.integers(1, 100))
    shape = (
        case.pick("batch", [0, 1, 2]),
        channels,
        case.pick("height", [0, 1, 2, 5]),
        case.pick("width", st.integers(0, 45)),
    )
    x = torch.randn(shape)
    odd = torch.rand(shape) < 0.2
    x[odd] = SPECIAL[torch.randint(len(SPECIAL), (int(odd.sum()),))]
    dtype = case.pick("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
    x = strided(case, "x", R.narrow(x.nan_to_num(0.0) if dtype == torch.int8 else x, dtype))
    threshold = None
    if case.pick("threshold", [True, False]):
        # Values of the image itself: many lie exactly at the threshold.
        threshold = torch.randn(channels) if x.numel() == 0 else R.widen(x[0, :, 0, 0])
        threshold = case.put(threshold)
    flip = torch.randint(INT32.min, INT32.max, ((channels + 31) // 32,), dtype=torch.int32)
    flip = case.put(flip) if case.pick("flip", [True, False]) else None
    case.run(lambda: [F.pack(x, threshold, flip)], [R.pack(x, threshold, flip)])
    bits = case.bits(*shape)
    case.run(lambda: [F.unpack(bits, channels)], [R.unpack(bits, channels)])


def pooling(case: Case) -> None:
    """max_pool2d over any window."""
    window, stride, dilation = (
        case.pair("window", 1, 5),
        case.pair("stride", 1, 5),
        case.pair("dilation", 1, 3),
    )
    padding = tuple(case.draw(st.integers(0, k // 2)) for k in window)
    size = case.pick("size", st.tuples(st.integers(1, 14), st.integers(1, 40)))
    for i in range(2):
        assume(size[i] + 2 * padding[i] >= dilation[i] * (window[i] - 1) + 1)
    case.told["padding"] = padding
    bits = case.bits(case.pick("batch", [0, 1, 2]), case.pick("channels", CHANNELS), *size)
    arguments = (window, stride, padding, dilation, case.pick("ceil_mode", [False, True]))
    case.run(lambda: [F.max_pool2d(bits, *arguments)], [R.max_pool2d(bits, *arguments)])


def stem(case: Case) -> None:
    """stem_threshold and stem_stream on values whose sums are exact in every order."""
    channels, out_channels = case.pick("channels", [1, 2, 3, 5]), case.pick("outputs", OUTPUTS)
    kernel = case.pick("kernel", st.tuples(st.integers(1, 7), st.integers(1, 7)))
    stride, padding, dilation = (
        case.pair("stride", 1, 4),
        case.pair("padding", 0, 5),
        case.pair("dilation", 1, 2),
    )
    size = case.pick("size", st.tuples(st.integers(1, 12), st.integers(1, 50)))
    for i in range(2):
        assume(size[i] + 2 * padding[i] >= dilation[i] * (kernel[i] - 1) + 1)
    few = torch.randint(-8, 9, (case.pick("batch", [0, 1, 2]), channels, *size)) / 8.0
    x = strided(case, "x", few)
    weight = torch.randint(-8, 9, (out_channels, channels, *kernel)) / 8.0
    tiled = case.put(F.tile_stem_weight(weight))
    sums = R.stem(x, weight, stride, padding, dilation)
    planes = case.pick("planes", [1, 2])
    threshold, geometry = case.put(coarse(planes, out_channels)), (stride, padding, dilation)
    if case.pick("result", ["bits", "stream"]) == "bits":
        flip = torch.randint(INT32.min, INT32.max, (planes, (out_channels + 31) // 32), dtype=torch.int32)
        flip = case.put(flip)
        rows = [sums.permute(0, 2, 3, 1) >= row for row in threshold]
        expected = [pack_bits(r ^ f) for r, f in zip(rows, unpack_bits(flip, out_channels), strict=True)]
        case.run(lambda: [F.stem_threshold(x, tiled, threshold, flip, *geometry)], [torch.cat(expected, -1)])
        return
    affine, relu = (
        case.put(coarse(case.pick("steps", [0, 1, 2]), 2, out_channels)),
        case.pick("relu", [True, False]),
    )
    expected = R.stream(sums, affine, [], threshold, relu=relu)
    case.run(lambda: F.stem_stream(x, tiled, affine, threshold, *geometry, relu), list(expected))
