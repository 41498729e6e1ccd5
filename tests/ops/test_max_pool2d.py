"""max_pool2d against torch's own max pooling of the unpacked activations, every kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits
from mbu_ops.backends import use_cpu_kernel


@settings(max_examples=35)
@given(data=st.data())
def test_any_window_equals_torch(kernel: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
    window, stride = data.draw(pair, label="window"), data.draw(pair, label="stride")
    dilation = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)), label="dilation")
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in window)  # torch's own limit
    height, width = (
        data.draw(st.integers(1, 11), label="height"),
        data.draw(st.integers(1, 23), label="width"),
    )
    for i, pixels in enumerate((height, width)):
        assume(pixels + 2 * padding[i] >= dilation[i] * (window[i] - 1) + 1)
    ceil_mode = data.draw(st.booleans(), label="ceil_mode")
    channels = data.draw(st.sampled_from([1, 32, 40, 70, 128, 256]), label="channels")
    bits = pack_bits(torch.rand(data.draw(st.integers(0, 2)), height, width, channels) < 0.3)
    expected = R.max_pool2d(bits, window, stride, padding, dilation, ceil_mode)  # type: ignore[arg-type]
    with use_cpu_kernel(kernel):
        assert torch.equal(F.max_pool2d(bits, window, stride, padding, dilation, ceil_mode), expected)


@pytest.mark.parametrize("arguments", [(2,), (3, 2, 1), (3, 1, 1, 1, True), (5, 1, 2)])
def test_pooling_of_a_word_slice(kernel: str, arguments: tuple[int, ...]) -> None:
    bits = pack_bits(torch.rand(2, 12, 13, 160) < 0.2)
    for view in (bits, bits[..., 1:4], bits[:, ::2, 1:, 3:]):
        with use_cpu_kernel(kernel):
            assert torch.equal(F.max_pool2d(view, *arguments), R.max_pool2d(view, *arguments))  # type: ignore[arg-type]
