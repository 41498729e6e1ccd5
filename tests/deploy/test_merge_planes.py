"""All planes of a float tensor are packed in one pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_mbu import convert, load, save, verify
from lightning_mbu.deploy.graph import constant, is_call

mbu = torch.ops.mbu


class Readers(nn.Module):
    """One float map, resized so that it stays float, and read by two convolutions, gated or not."""

    def __init__(self, gated):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40)
        self.inner, self.norm2 = nn.Conv2d(40, 40, 3, padding=1), nn.BatchNorm2d(40)
        self.first, self.second = (nn.Conv2d(40, 33, 3, padding=1) for _ in range(2))
        self.head, self.gated = nn.Conv2d(33, 2, 1), gated

    def forward(self, x):
        x = self.norm2(self.inner(torch.relu(self.norm(self.stem(x)))))
        if self.gated:
            x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        else:
            x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
        return self.head(self.first(x) + self.second(x))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("planes", [1, 2, 3])
def test_one_pack_for_all_readers_and_planes(gated, planes, quantized, tmp_path):
    torch.manual_seed(0)
    packed = convert(model := quantized(Readers(gated), planes=planes), torch.randn(2, 3, 32, 32))
    for shape in ((2, 3, 32, 32), (1, 3, 17, 40)):
        images = torch.randn(shape)
        result = verify(model, packed, images)
        assert result.mismatches == 0 and result.at_rounding == 0, str(result)
    packs = [node for node in packed.graph_module.graph.nodes if is_call(node, mbu.pack.default)]
    assert len(packs) == 1 and constant(packed.graph_module, packs[0].args[1]).shape == (2 * planes, 40)
    assert torch.equal(load(save(packed, tmp_path / "net.mbu"))(images), packed(images))
