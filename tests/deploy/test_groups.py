"""Grouped convolutions from the trained layer to the file."""

import pytest
import torch
from torch import nn

from lightning_mbu import convert, load, save, verify


class Grouped(nn.Module):
    """Groups of half a word behind one tensor, and of words that straddle the parts of a concat."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.narrow, self.relu = nn.Conv2d(64, 64, 3, padding=1, groups=4), nn.ReLU()
        self.wide = nn.Conv2d(128, 80, 3, padding=1, groups=2)
        self.last = nn.Conv2d(80, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        y = self.norm(self.stem(x))
        y = torch.cat([y[:, :50], self.relu(self.narrow(y)), y[:, 50:]], 1)
        return self.head(self.last(self.wide(y)))


@pytest.mark.parametrize("masked", ["all", "none"])
@torch.no_grad()
def test_grouped_layers_are_packed_and_saved_by_their_own_channels(quantized, tmp_path, masked):
    torch.manual_seed(0)
    model, x = quantized(Grouped(), masked=masked), torch.randn(2, 3, 16, 24)
    packed = convert(model, torch.randn(1, 3, 32, 32))
    result = verify(model, packed, x)
    assert result.ok and result.mismatches == 0, str(result)
    assert {layer.name: layer.groups for layer in packed.layers} == {"narrow": 4, "wide": 2, "last": 1}
    for layer in packed.layers:
        trained = model.get_submodule(layer.name)
        assert torch.equal(packed.weight(layer), trained.quantized_weight().to(torch.int8))
    loaded = load(save(packed, tmp_path / "net.mbu"))
    assert torch.equal(loaded(x), packed(x)) and loaded.layers == packed.layers
