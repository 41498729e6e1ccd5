"""The 1x1 head inside conv2d_stream: the same logits as a float convolution of the stored stream, every kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mbu_ops.functional as F
from mbu_ops import pack_bits, pack_weight
from mbu_ops.backends import use_cpu_kernel


@settings(max_examples=30)
@given(data=st.data())
def test_logits_are_those_of_the_stream(kernel: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    out_channels = data.draw(st.sampled_from([1, 8, 33, 64]), label="out channels")
    classes = data.draw(st.sampled_from([1, 4, 5, 16, 21]), label="classes")
    n, height, width = (data.draw(st.integers(*r)) for r in ((0, 2), (1, 9), (1, 70)))
    affine = torch.randint(-8, 9, (data.draw(st.integers(0, 2), label="steps"), 2, out_channels)) / 8
    residual = [torch.randint(-8, 9, (n, out_channels, height, width)) / 8.0] * data.draw(st.integers(0, 2))
    # Values of few bits: sums are exact in every order, so logits must be equal.
    head, bias = torch.randint(-8, 9, (classes, out_channels)) / 8, torch.randint(-8, 9, (classes,)) / 8
    bits = pack_bits(torch.rand(n, height, width, 40) < 0.5)
    relu, threads = (
        data.draw(st.booleans(), label="relu"),
        data.draw(st.sampled_from([1, 3]), label="threads"),
    )
    with_bias = data.draw(st.booleans(), label="bias")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with use_cpu_kernel(kernel):
            weight = F.tile_weight(pack_weight(torch.randint(-1, 2, (out_channels, 40, 3, 3))))
            arguments = (bits, weight, affine, residual, None, out_channels, 3)
            options = {"padding": 1, "relu": relu}
            stream, _ = F.conv2d_stream(*arguments, **options)
            logits, none = F.conv2d_stream(
                *arguments, **options, head=head, head_bias=bias if with_bias else None
            )
    finally:
        torch.set_num_threads(before)
    expected = torch.einsum("kc,nchw->nkhw", head.double(), stream.double())
    expected = expected + bias.double()[:, None, None] if with_bias else expected
    assert torch.equal(logits.double(), expected) and none.shape == (n, height, width, 0)
    assert logits.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": torch.zeros(2, 31)}, "head has shape"),
        ({"head": torch.zeros(32)}, r"must be \[classes, OC\]"),
        ({"head_bias": torch.zeros(3)}, "head_bias has shape"),
        ({"threshold": torch.zeros(1, 32)}, "leave threshold out"),
    ],
)
def test_errors_name_the_rule(change: dict, words: str) -> None:
    arguments = {
        "bits": torch.zeros(1, 8, 8, 1, dtype=torch.int32),
        "weight": F.tile_weight(pack_weight(torch.ones(32, 32, 1, 1))),
        "affine": torch.zeros(0, 2, 32),
        "residual": [],
        "threshold": None,
        "out_channels": 32,
        "kernel_size": 1,
        "head": torch.zeros(2, 32),
    }
    with pytest.raises(RuntimeError, match=words):
        F.conv2d_stream(**(arguments | change))
