"""Why torch runs an operation: what the library says is written down, once for each operation and device."""

from __future__ import annotations

import ctypes

import pytest
import torch

from mbu_ops import backends, doctor, fallback, reference
from mbu_ops.packing import pack_bits, pack_weight

from .conftest import Gpu

OPS = torch.ops.mbu_emulated


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, loaded: dict[str, ctypes.CDLL]) -> None:
    says = loaded["operations"].mbu_fallback_reason
    says.restype = ctypes.c_char_p
    monkeypatch.setattr(backends, "fallback_reason", lambda: says().decode())
    monkeypatch.setattr(fallback, "reasons", {})
    fallback._warned.add("cpu")


def test_a_layer_that_no_kernel_takes_says_why(gpu: Gpu) -> None:
    """A transposed stride of 9 has more phases than a launch."""
    bits = pack_bits(torch.rand(1, 2, 2, 40) < 0.5)
    planes = pack_weight(torch.randint(-1, 2, (12, 40, 9, 9)))
    weight, layer = OPS.tile_weight(planes), (12, [9, 9], [9, 9], [0, 0], [0, 0], [1, 1])
    for _ in range(2):
        found = OPS.conv_transpose2d([bits], weight, *layer)
        assert torch.equal(found, reference.conv_transpose2d(bits, planes, 9))
    why = fallback.reasons["conv_transpose2d", "cpu"]
    assert ("not for compute capability 7.0" if gpu.family == "none" else "stride above 8") in why
    assert ("tile_weight" in {name for name, _ in fallback.reasons}) == (gpu.family == "none")
    gpu.log()


def test_every_operation_tells(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mbu", OPS)
    found = doctor._fallbacks("cpu")
    assert "not known" not in found.values()
    assert found["attention"] == "torch's own runs on GPUs"
    if gpu.family == "none":
        assert set(found) == set(fallback.FALLBACKS)
    else:
        assert not {
            "pack",
            "conv2d",
            "conv2d_threshold",
            "conv_transpose2d_stream",
            "gemm",
            "max_pool2d",
        } & set(found)
    gpu.log()
