"""Joining packed activations bit by bit equals packing the concat."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mbu_ops import functional as F
from mbu_ops import pack_bits
from mbu_ops import reference as R


@given(data=st.data())
def test_equals_the_reference(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**16), label="seed"))
    channels = data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=9), label="channels")
    shape = [data.draw(st.integers(0, 4), label=axis) for axis in ("batch", "height", "width")]
    parts = []
    for count in channels:
        bits = pack_bits(torch.rand(*shape, count) < 0.5)
        wide = torch.nn.functional.pad(bits, (data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))))
        start = data.draw(st.integers(0, wide.shape[3] - bits.shape[3]))
        wide[..., start : start + bits.shape[3]] = bits
        parts.append(wide[..., start : start + bits.shape[3]])
    assert torch.equal(F.join_bits(parts, channels), R.join_bits(parts, channels))


def test_large_images_are_shared_by_threads() -> None:
    channels = [12, 12, 24, 40]
    parts = [pack_bits(torch.rand(2, 130, 257, count) < 0.5) for count in channels]
    assert torch.equal(F.join_bits(parts, channels), R.join_bits(parts, channels))
