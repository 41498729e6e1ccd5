"""pack and unpack: every layout, dtype and special value, every kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits
from mbu_ops.backends import use_cpu_kernel

SPECIAL = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45, -1e-45, 6e-8, -6e-8, 1.0]

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "rows apart": lambda x: torch.nn.functional.pad(x, (1, 2))[..., 1:-2],
    "every second pixel": lambda x: x.repeat_interleave(2, dim=3)[..., ::2],
    "channel slice, channels_last": lambda x: torch.cat([x, x], 1).contiguous(
        memory_format=torch.channels_last
    )[:, x.shape[1] :],
    "flipped strides": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=12)
@given(data=st.data())
def test_pack_equals_the_reference(kernel: str, layout: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    channels = data.draw(
        st.sampled_from([1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 100]), label="channels"
    )
    shape = (
        data.draw(st.integers(0, 2)),
        channels,
        data.draw(st.integers(1, 5)),
        data.draw(st.integers(1, 40)),
    )
    dtype = data.draw(
        st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int8]), label="dtype"
    )
    x = LAYOUTS[layout](R.narrow(torch.randn(shape), dtype))
    planes = data.draw(st.sampled_from([(), (), (1,), (2,), (3,)]), label="planes")
    threshold = (
        torch.randn(*planes, channels) if planes or data.draw(st.booleans(), label="threshold") else None
    )
    flip = None
    if data.draw(st.booleans(), label="flip"):
        flip = torch.randint(-(2**31), 2**31 - 1, (*planes, (channels + 31) // 32), dtype=torch.int32)
    with use_cpu_kernel(kernel):
        bits = F.pack(x, threshold, flip)
    assert torch.equal(bits, R.pack(x, threshold, flip))


@settings(max_examples=25)
@given(data=st.data())
def test_a_gate_multiplies_before_the_threshold(kernel: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    n, channels = (
        data.draw(st.integers(1, 3)),
        data.draw(st.sampled_from([1, 24, 32, 33, 96]), label="channels"),
    )
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 3e38, -1e-30, float("nan"), 0.3])
    gate = torch.sigmoid(torch.randn(n, channels, 1, 1))
    if data.draw(st.booleans(), label="special gates"):
        gate.view(-1)[::3] = special[torch.randint(10, (gate.view(-1)[::3].numel(),))]
    threshold = torch.where(torch.rand(channels) < 0.3, 0.0, torch.randn(channels))
    # Values that lie where the product crosses the threshold, and a few floats beside it.
    x = (threshold.view(1, -1, 1, 1) / gate).repeat(1, 1, 3, 20).nan_to_num(1.0, 3e38, -3e38)
    x = (x.view(torch.int32) + torch.randint(-3, 4, x.shape, dtype=torch.int32)).view(torch.float32)
    x = x.nan_to_num(1.0, 3e38, -3e38).contiguous(memory_format=torch.channels_last)
    flip = torch.randint(-(2**31), 2**31 - 1, ((channels + 31) // 32,), dtype=torch.int32)
    with use_cpu_kernel(kernel):
        assert torch.equal(F.pack(x, threshold, flip, gate), R.pack(x, threshold, flip, gate))
        assert torch.equal(F.pack(x, gate=gate), R.pack(x, gate=gate))
        thresholds, flips = torch.stack([threshold, threshold + 0.25]), torch.stack([flip, ~flip])
        assert torch.equal(F.pack(x, thresholds, flips, gate), R.pack(x, thresholds, flips, gate))


def test_planes_of_a_large_tensor(kernel: str) -> None:
    x = torch.randn(2, 70, 65, 33).contiguous(memory_format=torch.channels_last)
    threshold = torch.randn(3, 70)
    with use_cpu_kernel(kernel):
        bits = F.pack(x, threshold)
        assert torch.equal(bits, torch.cat([F.pack(x, row) for row in threshold], -1))


def test_planes_of_another_shape_are_refused() -> None:
    x = torch.randn(1, 3, 4, 4)
    with pytest.raises(
        RuntimeError, match=r"threshold has shape \[2, 4\]; it must be \[C\] for each plane = \[2, 3\]"
    ):
        F.pack(x, torch.ones(2, 4))
    with pytest.raises(RuntimeError, match="flip has shape"):
        F.pack(x, torch.ones(2, 3), torch.ones(1, dtype=torch.int32))
    assert F.pack(x, torch.ones(0, 3)).shape == (1, 4, 4, 0)


def test_a_gate_of_another_shape_is_refused() -> None:
    with pytest.raises(
        RuntimeError, match=r"gate has shape \[2, 3\]; it must be \[N, C, 1, 1\] = \[2, 3, 1, 1\]"
    ):
        F.pack(torch.randn(2, 3, 4, 4), gate=torch.ones(2, 3))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zero_nan_infinity_and_subnormals(
    kernel: str, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    x = torch.tensor(SPECIAL * 7).to(dtype).view(1, 35, 1, 2).contiguous(memory_format=memory_format)
    threshold = torch.tensor([(SPECIAL + [0.5])[i % 11] for i in range(35)])
    with use_cpu_kernel(kernel):
        assert torch.equal(F.pack(x), R.pack(x))
        assert torch.equal(F.pack(x, threshold), R.pack(x, threshold))


@pytest.mark.parametrize("channels", [8, 24, 40])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_value_of_16_bits(
    kernel: str, dtype: torch.dtype, memory_format: torch.memory_format, channels: int
) -> None:
    values = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    x = values.view(1, 1, 256, 256).expand(1, channels, -1, -1).contiguous(memory_format=memory_format)
    largest = torch.finfo(dtype).max
    special = [*SPECIAL, 2.0**-20, -(2.0**-24), 65519.0, 65520.0, -7e4, largest, -largest, -3.4e38, 3.4e38]
    scales = 10.0 ** torch.randint(-9, 6, (channels,))
    threshold = torch.cat([torch.tensor(special), torch.randn(channels) * scales])[:channels]
    with use_cpu_kernel(kernel):
        assert torch.equal(F.pack(x, threshold), R.pack(x, threshold))


def test_large_tensor_and_threads(kernel: str) -> None:
    x = torch.randn(2, 40, 130, 70)
    before = torch.get_num_threads()
    try:
        with use_cpu_kernel(kernel):
            for threads in (1, 2):
                torch.set_num_threads(threads)
                assert torch.equal(F.pack(x), R.pack(x))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7, 9, 15, 16, 17, 32, 40, 64, 65])
def test_unpack_inverts_pack(kernel: str, channels: int) -> None:
    signs = torch.randint(0, 2, (2, channels, 5, 7)) * 2.0 - 1
    with use_cpu_kernel(kernel):
        values = F.unpack(F.pack(signs), channels)
    assert torch.equal(values, signs)
    assert values.is_contiguous(memory_format=torch.channels_last)


def test_unpack_of_a_word_slice(kernel: str) -> None:
    bits: Tensor = pack_bits(torch.rand(2, 4, 6, 96) < 0.5)
    with use_cpu_kernel(kernel):
        for view in (bits[..., 1:2], bits[:, ::2, 1:, 2:], bits[:0, ..., :1]):
            assert torch.equal(F.unpack(view, 20), R.unpack(view, 20))
