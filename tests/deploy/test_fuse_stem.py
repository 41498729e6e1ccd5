"""The fused float stem: which convolutions it takes, and that only the order of its sums may differ."""

from __future__ import annotations

import torch
from torch import nn

from lightning_mbu import convert, verify
from lightning_mbu.deploy.graph import aten, is_call, mbu
from lightning_mbu.deploy.own_stem import OwnStem, stems_of
from lightning_mbu.models import MBUNet


def calls(packed, *targets) -> int:
    return sum(is_call(node, *targets) for node in packed.graph_module.graph.nodes)


class Small(nn.Module):
    """A stem with bias, read twice as bits or as a float stream too."""

    def __init__(self, channels: int, floats: bool):
        super().__init__()
        self.floats = floats
        self.stem = nn.Conv2d(channels, 40, 5, stride=2, padding=2)
        self.norm, self.relu = nn.BatchNorm2d(40), nn.ReLU()
        self.a, self.b = (nn.Conv2d(40, 40, 3, padding=1) for _ in "ab")
        self.head = nn.Conv2d(40, 1, 1)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        y = self.a(x) + self.b(x - 0.25)
        return self.head(y + x if self.floats else y)


def test_bits_alone_leave_the_stem(quantized):
    model = quantized(Small(3, floats=False), size=32)
    packed = convert(model, torch.randn(1, 3, 32, 32))
    assert calls(packed, mbu.stem_threshold.default) == 1 and calls(packed, aten.conv2d.default) == 0
    result = verify(model, packed, torch.randn(2, 3, 48, 32))
    assert result.ok and result.at_rounding == 0, str(result)


def test_a_stem_that_something_else_reads_starts_a_float_stream(quantized):
    model = quantized(Small(3, floats=True), size=32)
    packed = convert(model, torch.randn(1, 3, 32, 32))
    assert calls(packed, mbu.stem_stream.default) == 1 and calls(packed, aten.relu.default) == 0
    result = verify(model, packed, torch.randn(2, 3, 48, 32))
    assert result.ok, str(result)


def test_another_order_of_summing_stays_within_the_bound(quantized):
    # With four channels and images of some sizes ATen's own convolution adds in another order.
    model = quantized(MBUNet(in_channels=4, width=64))
    packed = convert(model, torch.randn(1, 4, 32, 32))
    images = torch.randn(1, 4, 64, 64)
    (stem,) = stems_of(packed)
    difference = (stem.sums(images).double() - torch.conv2d(images, stem.weight, None, *stem.geometry)).abs()
    assert bool((difference <= stem.bound(images)).all())
    result = verify(model, packed, images)
    assert result.ok and result.stem_errors == 0, str(result)


def test_a_wrong_stem_is_found(quantized):
    model = quantized(MBUNet(width=8))
    packed = convert(model, torch.randn(1, 3, 32, 32))
    node = next(n for n in packed.graph_module.graph.nodes if is_call(n, mbu.stem_threshold.default))
    getattr(packed.graph_module, str(node.args[2].target)).add_(0.1)
    assert verify(model, packed, torch.randn(1, 3, 32, 32)).mismatches > 0


def test_sums_beyond_rounding_are_counted(quantized):
    packed = convert(quantized(MBUNet(width=8)), torch.randn(1, 3, 32, 32))
    (stem,) = stems_of(packed)
    images, weight = torch.randn(1, 3, 32, 32), stem.weight.clone()
    stem.tiled.mul_(1.001)
    with OwnStem([stem]) as own:
        torch.conv2d(images, weight, None, *stem.geometry)
    assert own.outside > 0


def test_wide_and_grouped_convolutions_stay(quantized):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.grouped = nn.Conv2d(3, 3, 3, padding=1, groups=3)
            self.first, self.second = nn.Conv2d(3, 20, 1), nn.Conv2d(20, 32, 3, padding=1)
            self.body, self.head = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 1, 1)

        def forward(self, x):
            return self.head(self.body(self.second(self.first(self.grouped(x)).sigmoid())))

    packed = convert(quantized(Wide()), torch.randn(1, 3, 32, 32))
    assert calls(packed, mbu.stem_threshold.default, mbu.stem_stream.default) == 0
