"""Memory of large results passes from call to call, and goes back to the system when asked."""

from __future__ import annotations

import os
import sys

import pytest
import torch

import mbu_ops.functional as F
from mbu_ops import pack_bits
from mbu_ops.backends import release_memory

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(TORCH < (2, 11), reason="torch 2.10 takes no memory of ours")
@pytest.mark.parametrize("side", [512, 160])
def test_memory_of_a_large_result_is_used_again_and_given_back(side: int) -> None:
    bits = pack_bits(torch.rand(1, side, side, 64) < 0.5)  # 64 or 6 MiB of float32
    first = F.unpack(bits, 64)
    expected, place = first.clone(), first.data_ptr()
    del first
    second, third = F.unpack(bits, 64), F.unpack(bits, 64)
    assert second.data_ptr() == place != third.data_ptr()
    assert torch.equal(second, expected) and torch.equal(third, expected)
    assert second.is_contiguous(memory_format=torch.channels_last)
    del second, third
    before = resident_bytes()
    release_memory()
    if "MBU_SANITIZED" not in os.environ:  # sanitizers keep what was freed
        assert before - resident_bytes() > 2 * 0.9 * side * side * 64 * 4


def test_a_block_of_another_size_is_not_wasted_on_a_small_result() -> None:
    release_memory()
    large = F.unpack(pack_bits(torch.rand(1, 1024, 512, 64) < 0.5), 64)
    place = large.data_ptr()
    del large
    small = F.unpack(pack_bits(torch.rand(1, 512, 512, 64) < 0.5), 64)
    assert small.data_ptr() != place
    del small
    release_memory()
