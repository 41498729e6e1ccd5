"""The float head is computed inside the last one-bit layer where nothing else needs that layer's floats, otherwise by
an operation of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_mbu import convert, load, save, verify
from lightning_mbu.deploy.graph import aten, is_call, mbu
from lightning_mbu.models import MBUNet


def floats(packed) -> int:
    return sum(is_call(node, aten.conv2d.default) for node in packed.graph_module.graph.nodes)


def check(model, packed, images, tmp_path):
    """Packed, loaded and compiled, the network gives the trained one's logits."""
    result = verify(model, packed, images)
    assert result.ok and result.output_difference < 1e-4, str(result)
    save(packed, tmp_path / "model")
    assert torch.equal(load(tmp_path / "model")(images), packed(images))
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(packed)(images), packed(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shortcuts", [False, True])
@pytest.mark.parametrize("classes", [1, 11])
def test_the_head_of_a_u_net(quantized, shortcuts, classes, tmp_path):
    model = quantized(MBUNet(width=8, classes=classes, shortcuts=shortcuts))
    packed = convert(model, torch.randn(1, 3, 32, 32))
    assert floats(packed) == 0
    check(model, packed, torch.randn(2, 3, 32, 64), tmp_path)


class Ends(nn.Module):
    def __init__(self, kernel: int, twice: bool, classes: int):
        super().__init__()
        self.twice = twice
        self.stem, self.body = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Conv2d(32, classes, kernel, padding=kernel // 2)

    def forward(self, x):
        y = self.norm(self.body(self.stem(x)))
        return (self.head(y), y.mean()) if self.twice else self.head(y)


@pytest.mark.parametrize(("kernel", "twice"), [(3, False), (1, True)])
def test_other_heads_to_few_classes(quantized, kernel, twice, tmp_path):
    model = quantized(Ends(kernel, twice, classes=2))
    packed = convert(model, torch.randn(1, 3, 32, 32))
    assert floats(packed) == 0
    assert sum(is_call(n, mbu.head_conv2d.default) for n in packed.graph_module.graph.nodes) == 1
    images = torch.randn(2, 3, 32, 48)
    result = verify(model, packed, images)
    assert result.ok and result.output_difference < 1e-4, str(result)
    save(packed, tmp_path / "model")
    found, expected = load(tmp_path / "model")(images), packed(images)
    assert torch.equal(found[0], expected[0])


class Gated(nn.Module):
    """Channel attention on joined maps in front of the head, as behind BiSegUNet's last capacity block."""

    def __init__(self, gated: bool):
        super().__init__()
        self.gated = gated
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.a, self.b = (nn.Conv2d(32, c, 3, padding=1) for c in (12, 20))
        self.squeeze, self.head = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 7, 1)

    def forward(self, x):
        y = self.stem(x)
        y = torch.cat([self.a(y), self.b(y)], 1)
        return self.head(y * self.squeeze(y.mean((2, 3), keepdim=True)).sigmoid() if self.gated else y)


@pytest.mark.parametrize("gated", [False, True])
def test_joined_maps_are_never_stored(quantized, gated, tmp_path):
    model = quantized(Gated(gated), exclude=["squeeze"])
    packed = convert(model, torch.randn(1, 3, 32, 32))
    nodes = list(packed.graph_module.graph.nodes)
    assert sum(is_call(n, mbu.joined_head.default) for n in nodes) == 1
    assert not [n for n in nodes if is_call(n, aten.cat.default) and n.meta["val"].shape[2:] != (1, 1)]
    check(model, packed, torch.randn(2, 3, 32, 48), tmp_path)


def test_more_classes_stay(quantized):
    packed = convert(quantized(Ends(3, False, classes=5)), torch.randn(1, 3, 32, 32))
    assert floats(packed) == 1
    assert sum(is_call(n, mbu.conv2d_stream.default) for n in packed.graph_module.graph.nodes) == 1


class Bottleneck(nn.Module):
    """Float convolutions shaped like heads, whose results become bits."""

    def __init__(self, joined: bool, kernel: int):
        super().__init__()
        self.joined = joined
        self.stem, self.a = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.narrow = nn.Conv2d(64 if joined else 32, 4, kernel, padding=kernel // 2)
        self.b, self.head = nn.Conv2d(4, 32, 3, padding=1), nn.Conv2d(32, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.a(x)
        return self.head(self.b(self.narrow(torch.cat([y, x], 1) if self.joined else y)))


@pytest.mark.parametrize(("joined", "kernel"), [(False, 1), (False, 3), (True, 1)])
def test_what_decides_bits_is_no_head(quantized, joined, kernel):
    model = quantized(Bottleneck(joined, kernel), exclude=["narrow"], min_channels=4)
    packed = convert(model, torch.randn(1, 3, 32, 32))
    assert floats(packed) == 1
    result = verify(model, packed, torch.randn(2, 3, 32, 48))
    assert result.mismatches == 0, str(result)
