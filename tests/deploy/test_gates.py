"""Attention over channels in front of packed convolutions: the product goes into the binarizer, exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_mbu import convert, load, save, verify
from lightning_mbu.deploy.graph import is_call

aten, mbu = torch.ops.aten, torch.ops.mbu


class Gated(nn.Module):
    """Two parts, weighed by a function of their means, read by the last convolution."""

    def __init__(self, gate, joined=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.left, self.norm1 = nn.Conv2d(32, 24, 3, padding=1), nn.BatchNorm2d(24)
        if joined:
            self.right, self.norm2 = nn.Conv2d(32, 40, 3, padding=1), nn.BatchNorm2d(40)
        self.gate, self.joined = gate, joined
        self.mix = nn.Linear(64 if joined else 24, 64 if joined else 24)
        self.last = nn.Conv2d(64 if joined else 24, 32, 3, padding=1)
        self.head = nn.Conv2d(32, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        left = torch.relu(self.norm1(self.left(x)))
        x = torch.cat([left, torch.relu(self.norm2(self.right(x)))], 1) if self.joined else left
        gate = self.gate(self.mix(x.mean((2, 3))))[:, :, None, None]
        return self.head(torch.relu(self.last(gate * x)))


def calls(packed, *targets):
    return [node for node in packed.graph_module.graph.nodes if is_call(node, *targets)]


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(
    "gate", [torch.sigmoid, torch.tanh, nn.Hardsigmoid()], ids=["sigmoid", "signed", "zeros"]
)
def test_the_product_is_never_stored(gate, joined, quantized, tmp_path):
    torch.manual_seed(0)
    model = quantized(Gated(gate, joined), min_channels=1)
    packed = convert(model, torch.randn(2, 3, 32, 32))
    for shape in ((2, 3, 32, 32), (1, 3, 17, 40)):
        images = torch.randn(shape)
        result = verify(model, packed, images)
        assert result.mismatches == 0 and result.at_rounding == 0, str(result)
    gated = [pack for pack in calls(packed, mbu.pack.default) if len(pack.args) == 4]
    assert len(gated) == 1 + joined
    assert not calls(packed, aten.mul.Tensor)
    # Neither is the concat of the parts: what is left joins numbers, not maps.
    assert all(node.meta["val"].dim() == 2 for node in calls(packed, aten.cat.default) if "val" in node.meta)
    assert torch.equal(load(save(packed, tmp_path / "net.mbu"))(images), packed(images))


def test_a_product_that_others_read_stays(quantized):
    class Read(Gated):
        def forward(self, x):
            x = torch.relu(self.norm1(self.left(self.stem(x))))
            x = torch.sigmoid(self.mix(x.mean((2, 3))))[:, :, None, None] * x
            return self.head(self.last(x)) + x.mean(1, keepdim=True)

    model = quantized(Read(torch.sigmoid, joined=False), min_channels=1)
    packed = convert(model, torch.randn(2, 3, 32, 32))
    assert len(calls(packed, aten.mul.Tensor)) == 1
    result = verify(model, packed, torch.randn(2, 3, 32, 32))
    assert result.mismatches == 0, str(result)
