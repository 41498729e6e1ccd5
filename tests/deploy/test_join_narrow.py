"""Parts of few channels are joined bit by bit where a convolution gains more than joining costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_mbu import convert, load, save, verify
from lightning_mbu.deploy.graph import is_call

mbu = torch.ops.mbu


class Streams(nn.Module):
    """Three narrow streams of the image, read together by two convolutions."""

    def __init__(self, kernel, stride, width):
        super().__init__()
        self.streams = nn.ModuleList(nn.Conv2d(3, width, 3, padding=1) for width in (12, 12, 24))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (12, 12, 24))
        self.readers = nn.ModuleList(
            nn.Conv2d(48, width, kernel, stride, padding=kernel // 2) for _ in range(2)
        )
        self.norm, self.head = nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        x = torch.cat([norm(stream(x)) for stream, norm in zip(self.streams, self.norms, strict=True)], 1)
        return self.head(self.norm(sum(reader(x) for reader in self.readers)))


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize(
    "kernel, stride, width, joins", [(3, 1, 40, True), (3, 2, 72, True), (1, 1, 40, False)]
)
def test_joined_where_it_pays(planes, kernel, stride, width, joins, quantized, tmp_path):
    torch.manual_seed(0)
    packed = convert(
        model := quantized(Streams(kernel, stride, width), planes=planes), torch.randn(1, 3, 32, 32)
    )
    images = torch.randn(2, 3, 18, 40)
    result = verify(model, packed, images)
    assert result.mismatches == 0 and result.at_rounding == 0, str(result)
    nodes = [node for node in packed.graph_module.graph.nodes if is_call(node, mbu.join_bits.default)]
    # One threshold per channel is the same for both readers, and so are their bits.
    assert len(nodes) == joins * (1 if planes == 1 else 2)
    assert {layer.segments for layer in packed.layers} == (
        {(48 * planes,)} if joins else {(12, 12, 24) * planes}
    )
    assert torch.equal(load(save(packed, tmp_path / "net.mbu"))(images), packed(images))
