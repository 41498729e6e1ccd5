"""conv_transpose2d and conv_transpose2d_threshold against the reference, every kernel."""

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

CHANNELS = st.sampled_from([1, 31, 32, 40, 64, 97])


def check(kernel: str, bits: Tensor, planes: Tensor, geometry: dict[str, object]) -> None:
    out_channels, size = planes.shape[1], list(planes.shape[2:4])
    threshold = torch.randint(-40, 41, (2, out_channels), dtype=torch.int32)
    flip = torch.randint(-(2**31), 2**31 - 1, (2, (out_channels + 31) // 32), dtype=torch.int32)
    with use_cpu_kernel(kernel):
        weight = F.tile_weight(planes)
        sums = F.conv_transpose2d(bits, weight, out_channels, size, **geometry)  # type: ignore[arg-type]
        packed = F.conv_transpose2d_threshold(bits, weight, threshold, flip, out_channels, size, **geometry)
    assert torch.equal(sums, R.conv_transpose2d(bits, planes, **geometry))  # type: ignore[arg-type]
    assert sums.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(packed, R.conv_transpose2d_threshold(bits, planes, threshold, flip, **geometry))


def layer(channels: int, out_channels: int, kernel: tuple[int, int]) -> Tensor:
    """Planes of a weight in the layout of nn.ConvTranspose2d, [C, OC, KH, KW]."""
    return pack_weight(torch.randint(-1, 2, (channels, out_channels, *kernel)).transpose(0, 1))


@settings(max_examples=30)
@given(data=st.data())
def test_any_layer_equals_the_reference(kernel: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    size = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)), label="kernel")
    stride = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)), label="stride")
    padding = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)), label="padding")
    dilation = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)), label="dilation")
    extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    height, width = data.draw(st.integers(1, 9), label="height"), data.draw(st.integers(1, 17), label="width")
    for i, pixels in enumerate((height, width)):
        assume((pixels - 1) * stride[i] - 2 * padding[i] + dilation[i] * (size[i] - 1) + extra[i] + 1 >= 1)
    channels, out_channels = data.draw(CHANNELS, label="channels"), data.draw(CHANNELS, label="out_channels")
    bits = pack_bits(torch.rand(data.draw(st.integers(0, 2)), height, width, channels) < 0.5)
    geometry = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation}
    check(kernel, bits, layer(channels, out_channels, size), geometry)


@pytest.mark.parametrize(
    "size,geometry",
    [
        (2, {"stride": 2}),
        (3, {"stride": 2, "padding": 1, "output_padding": 1}),
        (4, {"stride": 2, "padding": 1}),
        (1, {"stride": 3}),  # passes without a tap
        (3, {"padding": 1}),
    ],
)
def test_upsampling_layers_of_real_networks(kernel: str, size: int, geometry: dict[str, object]) -> None:
    bits = pack_bits(torch.rand(2, 15, 33, 128) < 0.5)
    check(kernel, bits, layer(128, 64, (size, size)), geometry)
    check(kernel, bits[..., 1:3], layer(64, 33, (size, size)), geometry)


def test_taps_sit_where_torch_puts_them(kernel: str) -> None:
    weight = torch.randint(-1, 2, (37, 20, 3, 3))
    layer = torch.nn.ConvTranspose2d(37, 20, 3, stride=2, padding=1, output_padding=1, bias=False)
    x = torch.randn(1, 37, 5, 6)
    with torch.no_grad():
        layer.weight.copy_(weight)
        expected = layer(torch.where(x >= 0, 1.0, -1.0))
    with use_cpu_kernel(kernel):
        tiled = F.tile_weight(pack_weight(weight.transpose(0, 1)))
        sums = F.conv_transpose2d(F.pack(x), tiled, 20, 3, 2, 1, 1)
    assert torch.equal(sums, expected)
