"""The float convolution to a few classes, every kernel, against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mbu_ops.functional as F
from mbu_ops.backends import use_cpu_kernel


def coarse(*shape: int) -> Tensor:
    """Values of few bits, so that sums of their products are exact in every order."""
    return torch.randint(-8, 9, shape) / 8.0


@settings(max_examples=40)
@given(data=st.data())
def test_any_head_equals_torch(kernel: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    channels = data.draw(st.sampled_from([1, 3, 16, 20, 64]), label="channels")
    classes = data.draw(st.integers(1, 4), label="classes")
    taps = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)), label="kernel")
    padding = data.draw(st.tuples(st.integers(0, 6), st.integers(0, 6)), label="padding")
    size = [
        data.draw(st.integers(max(1, k - 2 * p), 23), label="size")
        for k, p in zip(taps, padding, strict=True)
    ]
    x = coarse(data.draw(st.integers(0, 2), label="batch"), channels, *size)
    if data.draw(st.booleans(), label="channels last"):
        x = x.contiguous(memory_format=torch.channels_last)
    weight = coarse(classes, channels, *taps)
    bias = coarse(classes) if data.draw(st.booleans(), label="bias") else None
    with use_cpu_kernel(kernel):
        found = F.head_conv2d(x, weight.permute(0, 2, 3, 1), bias, padding)
    assert torch.equal(
        found,
        torch.conv2d(
            x.double(), weight.double(), None if bias is None else bias.double(), 1, padding
        ).float(),
    )
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_threads_and_slices_change_nothing(kernel: str) -> None:
    torch.manual_seed(0)
    wide = torch.randn(2, 48, 61, 67).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 3, 3, 16), torch.randn(2)
    before = torch.get_num_threads()
    with use_cpu_kernel(kernel):
        expected = F.head_conv2d(wide[:, 16:32].clone(memory_format=torch.contiguous_format), weight, bias, 1)
        torch.set_num_threads(3)
        try:
            assert torch.equal(F.head_conv2d(wide[:, 16:32], weight, bias, 1), expected)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(1, 3, 8, 8, dtype=torch.float64)}, "x is Double"),
        ({"x": torch.zeros(1, 4, 8, 8)}, r"it must be float32 \[classes, KH, KW, 4\]"),
        ({"weight": torch.zeros(5, 3, 3, 3)}, "at most 4"),
        ({"bias": torch.zeros(3)}, "bias has shape"),
        ({"padding": -1}, "padding"),
        ({"x": torch.zeros(1, 3, 2, 8)}, "spans 3 in height"),
    ],
)
def test_errors_name_the_rule(change: dict, words: str) -> None:
    arguments = {"x": torch.zeros(1, 3, 8, 8), "weight": torch.zeros(2, 3, 3, 3), "bias": torch.zeros(2)}
    with pytest.raises(RuntimeError, match=words):
        F.head_conv2d(**(arguments | change))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles(dynamic: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 16, 20, 24), torch.randn(1, 3, 3, 16)
    compiled = torch.compile(lambda x: F.head_conv2d(x, weight, None, 1) * 2, dynamic=dynamic, fullgraph=True)
    assert torch.equal(compiled(x), F.head_conv2d(x, weight, None, 1) * 2)


@settings(max_examples=30)
@given(data=st.data())
def test_any_joined_head_equals_torch(kernel: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    channels = data.draw(st.lists(st.sampled_from([1, 12, 16, 40]), min_size=1, max_size=4), label="channels")
    classes = data.draw(st.sampled_from([1, 4, 5, 19, 40]), label="classes")
    n, height, width = (
        data.draw(st.integers(low, high), label="size") for low, high in ((0, 2), (1, 4), (1, 400))
    )
    parts = [coarse(n, c, height, width) for c in channels]
    if data.draw(st.booleans(), label="channels last"):
        parts = [part.contiguous(memory_format=torch.channels_last) for part in parts]
    weight = coarse(classes, sum(channels))
    bias = coarse(classes) if data.draw(st.booleans(), label="bias") else None
    gate = coarse(n, sum(channels), 1, 1) if data.draw(st.booleans(), label="gate") else None
    with use_cpu_kernel(kernel):
        found = F.joined_head(parts, weight, bias, gate)
    joined = torch.cat(parts, 1).double() * (1 if gate is None else gate.double())
    expected = torch.conv2d(joined, weight.double()[..., None, None], None if bias is None else bias.double())
    assert torch.equal(found, expected.float())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": []}, "x is empty"),
        ({"x": [torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 5)]}, "of 4x5 pixels, the first one"),
        ({"weight": torch.zeros(2, 6)}, "weight has shape"),
        ({"gate": torch.zeros(1, 5)}, "gate has shape"),
    ],
)
def test_errors_of_a_joined_head_name_the_rule(change: dict, words: str) -> None:
    arguments = {"x": [torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4)], "weight": torch.zeros(2, 5)}
    with pytest.raises(RuntimeError, match=words):
        F.joined_head(**(arguments | change))
