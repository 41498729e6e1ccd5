"""Upsampling of logits and attention run through the library, and give what torch gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_mbu import convert, load, save, verify
from lightning_mbu.deploy.graph import aten, is_call
from lightning_mbu.models import BiSegUNet

mbu = torch.ops.mbu


class Logits(nn.Module):
    """A one-bit layer, a head, and logits brought to the size of the image."""

    def __init__(self, **upsampling):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32)
        self.inner, self.head = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 5, 1)
        self.upsampling = upsampling

    def forward(self, x):
        logits = self.head(self.inner(self.norm(self.stem(x))))
        return nn.functional.interpolate(logits, mode="bilinear", **self.upsampling)


@pytest.mark.parametrize(
    "upsampling, lean",
    [
        ({"scale_factor": 2}, True),
        ({"scale_factor": 2, "align_corners": True}, True),
        ({"size": (40, 24)}, True),
        ({"scale_factor": 1.7}, False),
    ],
)
def test_upsampled_logits(upsampling, lean, quantized, tmp_path):
    packed = convert(model := quantized(Logits(**upsampling)), torch.randn(1, 3, 32, 32))
    images = torch.randn(2, 3, 18, 40)
    result = verify(model, packed, images)
    assert result.mismatches == 0 and result.output_difference < 1e-5, str(result)
    nodes = packed.graph_module.graph.nodes
    assert any(is_call(node, mbu.upsample_bilinear2d.default) for node in nodes) == lean
    assert torch.equal(load(save(packed, tmp_path / "net.mbu"))(images), packed(images))


def test_attention_of_the_bottleneck(quantized):
    model = BiSegUNet(width=16, classes=5)
    packed = convert(model := quantized(model, size=64, min_channels=4), torch.randn(1, 3, 64, 64))
    images = torch.randn(2, 3, 64, 48)
    result = verify(model, packed, images)
    assert result.mismatches == 0, str(result)
    nodes = packed.graph_module.graph.nodes
    assert sum(is_call(node, mbu.attention.default) for node in nodes) == 1
    assert not any(
        is_call(node, aten.scaled_dot_product_attention.default, aten.pad.default) for node in nodes
    )
    compiled = torch.compile(packed, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(images), packed(images))
