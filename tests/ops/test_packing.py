"""Packing in Python: bit order, round trips, segments, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mbu_ops import pack_bits, pack_weight, unpack_bits, unpack_weight


def test_channel_c_is_bit_c_mod_32_of_word_c_div_32() -> None:
    for channel in (0, 1, 8, 31, 32, 33, 63, 69):
        bits = torch.zeros(70, dtype=torch.bool)
        bits[channel] = True
        words = pack_bits(bits)
        assert words.shape == (3,)
        assert int(words[channel // 32]) & 0xFFFFFFFF == 1 << (channel % 32)
        assert int((words != 0).sum()) == 1


@given(st.integers(0, 2**16), st.integers(1, 130), st.lists(st.integers(0, 4), max_size=3))
def test_bits_round_trip_with_zero_tail(seed: int, channels: int, shape: list[int]) -> None:
    torch.manual_seed(seed)
    bits = torch.rand(*shape, channels) < 0.5
    words = pack_bits(bits)
    assert words.dtype == torch.int32
    assert words.shape == (*shape, (channels + 31) // 32)
    assert torch.equal(unpack_bits(words, channels), bits)
    assert not unpack_bits(words, words.shape[-1] * 32)[..., channels:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.int64])
@pytest.mark.parametrize("segments", [None, [70], [32, 38], [1, 2, 67]])
def test_weight_round_trip(segments: list[int] | None, dtype: torch.dtype) -> None:
    weight = torch.randint(-1, 2, (5, 70, 3, 2)).to(dtype)
    planes = pack_weight(weight, segments)
    assert planes.shape == (2, 5, 3, 2, sum((c + 31) // 32 for c in segments or [70]))
    assert torch.equal(planes[0] & planes[1], planes[0]), "sign is a subset of mask"
    assert torch.equal(unpack_weight(planes, 70, segments), weight.to(torch.int8))


def test_errors() -> None:
    with pytest.raises(TypeError, match="bits is torch.float32; it must be bool"):
        pack_bits(torch.ones(3))
    with pytest.raises(ValueError, match="channels=33 needs 2 words, but the last dimension has 1"):
        unpack_bits(torch.zeros(1, dtype=torch.int32), 33)
    with pytest.raises(ValueError, match="values other than -1, 0 and"):
        pack_weight(torch.full((1, 1, 1, 1), 0.5))
    with pytest.raises(ValueError, match=r"shape \(3, 3\); it must be"):
        pack_weight(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"segments=\[2, 3\] sum to 5, but the weight has 6"):
        pack_weight(torch.ones(1, 6, 1, 1), [2, 3])
    with pytest.raises(ValueError, match=r"segments \[40\] need 2 words, but planes has 1"):
        unpack_weight(torch.zeros(2, 1, 1, 1, 1, dtype=torch.int32), 40)
