"""Concat and upsampling in front of packed convolutions: gone where they can go, and exact in any case."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_mbu import convert, load, save, verify
from lightning_mbu.deploy.graph import ALL_CONVOLUTIONS, bits_of, is_call
from lightning_mbu.models import MBUNet

aten = torch.ops.aten
MOVES = (aten.cat.default, aten.upsample_nearest2d.vec, aten.permute.default, aten.view.dtype)


class TwoLevels(nn.Module):
    """A map and one of half its size, brought together by `join`, read by the last convolutions."""

    def __init__(self, join):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.fine, self.norm1 = nn.Conv2d(32, 40, 3, padding=1), nn.BatchNorm2d(40)
        self.coarse, self.norm2 = nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64)
        self.join = join
        self.last, self.other = nn.Conv2d(104, 32, 3, padding=1), nn.Conv2d(104, 32, 1)
        self.head = nn.Conv2d(64, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        joined = self.join(self.norm1(self.fine(x)), self.norm2(self.coarse(x)))
        return self.head(torch.cat([self.last(joined), self.other(joined)], 1))


def moves(packed):
    return [n for n in packed.graph_module.graph.nodes if is_call(n, *MOVES) and "pack" not in n.name]


def check(model, *sizes):
    packed = convert(model, torch.randn(2, 3, 24, 24))
    for height, width in sizes or ((24, 24), (25, 27)):
        images = torch.randn(2, 3, height, width)
        result = verify(model, packed, images)
        assert result.mismatches == 0 and result.at_rounding == 0, str(result)
    return packed


JOINED = {
    "size": lambda a, b: torch.cat([a, F.interpolate(b, size=a.shape[2:])], 1),
    "size, coarse first": lambda a, b: torch.cat([F.interpolate(b, size=a.shape[2:]), a], 1),
    "concat of concats": lambda a, b: torch.cat(
        [a[:, :32], torch.cat([a[:, 32:], F.interpolate(b, size=a.shape[2:])], 1)], 1
    ),
}


@pytest.mark.parametrize("name", JOINED)
def test_joined_and_enlarged_inputs_are_never_written(name, quantized):
    packed = check(quantized(TwoLevels(JOINED[name]), size=24))
    assert not moves(packed)
    joined = [n for n in packed.convolution_nodes() if len(bits_of(n)) > 1]
    assert [packed.convolution_nodes()[n].name for n in joined] == ["last", "other"]


def test_whole_factors_are_joined(quantized):
    def join(a, b):
        return torch.cat([a, F.interpolate(b, scale_factor=2)], 1)

    packed = check(quantized(TwoLevels(join), size=24), (32, 40))
    assert not moves(packed)


@pytest.mark.parametrize(
    "join",
    [
        lambda a, b: F.max_pool2d(torch.cat([a, F.interpolate(b, size=a.shape[2:])], 1), 2),
        lambda a, b: torch.cat([a, F.interpolate(F.interpolate(b, size=(5, 5)), size=a.shape[2:])], 1),
        lambda a, b: F.interpolate(torch.cat([a, F.interpolate(b, size=a.shape[2:])], 1), size=(9, 30)),
        lambda a, b: torch.cat([F.interpolate(a, scale_factor=1.7), F.interpolate(b, scale_factor=3.4)], 1),
        lambda a, b: torch.cat([a, F.interpolate(b, size=a.shape[2:], mode="bilinear")], 1),
    ],
)
def test_what_others_read_or_round_stays_exact(join, quantized):
    check(quantized(TwoLevels(join), size=24), (24, 24), (32, 28))


def test_upsampling_alone_is_read_by_its_convolution(quantized):
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a = nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.Conv2d(32, 70, 3, padding=1)
            self.norm, self.b, self.head = (
                nn.BatchNorm2d(70),
                nn.Conv2d(70, 16, 3, padding=1),
                nn.Conv2d(16, 1, 1),
            )

        def forward(self, x):
            y = self.norm(self.a(self.stem(x)))
            return self.head(self.b(F.interpolate(y, size=x.shape[2:])))

    assert not moves(check(quantized(Decoder(), size=24)))


@torch.no_grad()
def test_joined_network_can_be_saved_and_compiled(quantized, tmp_path):
    packed = convert(quantized(TwoLevels(JOINED["size"]), size=24), torch.randn(2, 3, 24, 24))
    loaded = load(save(packed, tmp_path / "net.mbu"))
    compiled = torch.compile(packed, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (24, 31, 40):
        images = torch.randn(2, 3, size, size + 2)
        assert torch.equal(loaded(images), packed(images)) and torch.equal(compiled(images), packed(images))


def test_no_concat_is_left_in_the_papers_network(quantized):
    packed = convert(quantized(MBUNet(width=32)), torch.randn(1, 3, 32, 32))
    assert not moves(packed)
    assert (
        sum(len(bits_of(n)) == 2 for n in packed.graph_module.graph.nodes if is_call(n, *ALL_CONVOLUTIONS))
        == 4
    )
