"""On a card: the operations, a converted network, and CUDA graphs. Skipped where there is none."""

from __future__ import annotations

import copy

import pytest
import torch

from lightning_mbu import convert, make_plan, prepare
from lightning_mbu.models import MBUNet
from mbu_ops import pack_bits, pack_weight, reference
from mbu_ops.cuda import cuda_choices
from mbu_ops.doctor import self_test
from mbu_ops.peak import peak_rates

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no NVIDIA GPU, or a CPU build of torch"
)


@pytest.fixture(scope="module")
def packed():
    model, example = MBUNet(width=16).eval(), torch.randn(1, 3, 64, 64)
    return convert(prepare(model, make_plan(model, example)), example)


def test_every_device_passes_the_self_test() -> None:
    for index in range(torch.cuda.device_count()):
        assert self_test(f"cuda:{index}")


@torch.inference_mode()
def test_a_network_moves_to_the_gpu_and_back(packed) -> None:
    x = torch.randn(2, 3, 64, 96)
    expected = packed(x)
    there = copy.deepcopy(packed).to("cuda")
    torch.testing.assert_close(there(x.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="the input is on cpu and the model on cuda"):
        there(x)
    assert torch.equal(there.to("cpu")(x), expected)


@torch.inference_mode()
def test_a_captured_graph_repeats_the_eager_result(packed) -> None:
    there, x = copy.deepcopy(packed).to("cuda"), torch.randn(1, 3, 64, 64, device="cuda")
    eager = there(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = there(x)
    graph.replay()
    assert torch.equal(captured, eager)


@pytest.mark.parametrize("setting", ["always", "never"])
@pytest.mark.parametrize(
    "kernel, stride, dilation, pad_value", [(3, 1, 1, 0), (3, 2, 1, -1), (3, 1, 2, 0), (1, 1, 1, 0)]
)
def test_many_channels_on_both_kinds_of_kernel(
    setting, kernel, stride, dilation, pad_value, monkeypatch
) -> None:
    """The main loops of CUTLASS, for which there may be too few blocks otherwise, and our own."""
    monkeypatch.setenv("MBU_CUDA_GEMM", setting)
    random = torch.Generator().manual_seed(kernel + stride)
    bits = pack_bits(torch.rand(2, 19, 23, 1024, generator=random) < 0.5)
    planes = pack_weight(torch.randint(-1, 2, (72, 1024, kernel, kernel), generator=random))
    threshold = torch.randint(-60, 60, (2, 72), dtype=torch.int32, generator=random)
    flip = pack_bits(torch.rand(2, 72, generator=random) < 0.5)
    geometry = [stride] * 2, [kernel // 2] * 2, [dilation] * 2, pad_value
    there, weight = bits.cuda(), torch.ops.mbu.tile_weight(planes.cuda())
    found = torch.ops.mbu.conv2d([there], weight, 72, [kernel] * 2, *geometry)
    assert torch.equal(found.cpu(), reference.conv2d(bits, planes, *geometry))
    found = torch.ops.mbu.conv2d_threshold(
        [there], weight, threshold.cuda(), flip.cuda(), 72, [kernel] * 2, *geometry
    )
    assert torch.equal(found.cpu(), reference.conv2d_threshold(bits, planes, threshold, flip, *geometry))


def test_the_timed_search_keeps_what_it_measured(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MBU_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MBU_CUDA_SEARCH", "1")
    assert cuda_choices(0) == []
    assert self_test("cuda:0")
    choices = cuda_choices(0)
    assert choices
    assert all(time > 0 for choice in choices for time in choice.times.values())


def test_every_instruction_has_a_rate_or_a_reason() -> None:
    peaks = peak_rates(torch.device("cuda:0"), rounds=64)
    assert any(peak.rate for peak in peaks)
    assert all(peak.rate or peak.why for peak in peaks)
