"""On a card: the operations, a converted network, and CUDA graphs. Skipped where there is none."""

from __future__ import annotations

import copy

import pytest
import torch

from lightning_mbu import convert, make_plan, prepare
from lightning_mbu.models import MBUNet
from mbu_ops.doctor import self_test

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
