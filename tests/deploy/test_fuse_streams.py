"""Residual networks: what is fused, that it stays exact to the last bit, and what must not be fused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_mbu import convert, verify
from lightning_mbu.deploy.graph import STREAM_CONVOLUTIONS, is_call
from lightning_mbu.models import MBUNet

aten = torch.ops.aten


class Residual(nn.Module):
    """conv `first`, then `join(norm(conv second), first)`, read by a third convolution and by the output."""

    def __init__(self, first, second, join):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.first, self.norm1 = first, nn.BatchNorm2d(first.out_channels)
        self.second, self.norm2 = second, nn.BatchNorm2d(second.out_channels)
        self.join = join
        self.third = nn.Conv2d(second.out_channels, 16, 3, padding=1)
        self.head = nn.Conv2d(16 + second.out_channels, 5, 3)  # one that stays as it is, to the last bit

    def forward(self, x):
        first = self.norm1(self.first(self.stem(x)))
        y = self.join(self.norm2, self.second, first)
        return self.head(torch.cat([self.third(y), y], 1))


def conv(channels, out_channels, **options):
    return nn.Conv2d(channels, out_channels, 3, padding=1, **options)


def up(channels, out_channels):
    return nn.ConvTranspose2d(channels, out_channels, 2, stride=2)


FUSED = {
    "identity": (conv(32, 32), conv(32, 32), lambda n, c, x: n(c(x)) + x),
    "shortcut first": (conv(32, 40), conv(40, 40), lambda n, c, x: x + n(c(x))),
    "relu": (conv(32, 32), conv(32, 32), lambda n, c, x: F.relu(n(c(x)) + x)),
    "no shortcut": (conv(32, 32), conv(32, 32), lambda n, c, x: F.relu(n(c(x)))),
    "bias and scalars": (conv(32, 24), conv(24, 24, bias=True), lambda n, c, x: n(c(x)) * 0.3 - 2 + x),
    "repeat": (conv(32, 32), conv(32, 64), lambda n, c, x: n(c(x)) + x.repeat(1, 2, 1, 1)),
    "mean": (conv(32, 64), conv(64, 32), lambda n, c, x: n(c(x)) + x.unflatten(1, (2, 32)).mean(1)),
    "pool": (conv(32, 32), conv(32, 32), lambda n, c, x: n(c(F.max_pool2d(x, 2))) + F.max_pool2d(x, 2)),
    "upsample": (conv(32, 32), up(32, 32), lambda n, c, x: n(c(x)) + F.interpolate(x, scale_factor=2)),
    "concat": (
        conv(32, 20),
        conv(40, 40),
        lambda n, c, x: n(c(torch.cat([x, -x], 1))) + torch.cat([x, -x], 1),
    ),
    "strided, odd size": (
        conv(32, 32),
        conv(32, 32, stride=2),
        lambda n, c, x: n(c(x)) + F.max_pool2d(x, 2, ceil_mode=True),
    ),
}
ELEMENTWISE = (aten.add.Tensor, aten.mul.Tensor, aten.batch_norm.default, aten.relu.default)


@pytest.mark.parametrize("name", FUSED)
def test_fused_streams_equal_the_trained_network(name, quantized):
    model = quantized(Residual(*FUSED[name]), size=24, min_channels=4)
    images = torch.randn(2, 3, 24, 24)
    packed, unfused = convert(model, images), convert(model, images, fuse=False)
    result = verify(model, packed, torch.randn(2, 3, 24, 24))
    assert result.mismatches == 0 and result.at_rounding == 0, str(result)
    assert torch.equal(packed(images), unfused(images))
    streams = [n for n in packed.graph_module.graph.nodes if is_call(n, *STREAM_CONVOLUTIONS)]
    assert any(n.args[1].target == "second_tiles" for n in streams)
    left = [n for n in packed.graph_module.graph.nodes if is_call(n, *ELEMENTWISE)]
    assert not left, f"{left} are still computed in passes of their own"


@pytest.mark.parametrize(
    "join",
    [
        lambda n, c, x: n(c(x)) + x.mean((2, 3), keepdim=True),  # broadcasts: not a map of the same size
        lambda n, c, x: torch.add(n(c(x)), x, alpha=0.5),
        lambda n, c, x: n(c(x)) * x,
        lambda n, c, x: n(c(x)) + n(c(x.flip(1))),
        lambda n, c, x: (y := n(c(x))) + y.relu(),
    ],
)
def test_other_joins_stay_exact(join, quantized):
    model = quantized(Residual(conv(32, 32), conv(32, 32), join), size=24, min_channels=4)
    packed = convert(model, torch.randn(2, 3, 24, 24))
    result = verify(model, packed, torch.randn(2, 3, 24, 24))
    assert result.mismatches == 0 and result.at_rounding == 0, str(result)


def test_calls_of_one_layer_keep_their_order(quantized):
    class Twice(nn.Module):
        """One layer, first in front of a shortcut that comes late, then behind bits."""

        def __init__(self):
            super().__init__()
            self.stem, self.a, self.norm = nn.Conv2d(3, 32, 1), conv(32, 32), nn.BatchNorm2d(32)
            self.b, self.head = conv(32, 32), nn.Conv2d(32, 1, 1)

        def forward(self, x):
            x = self.stem(x)
            early = self.norm(self.a(x))
            return self.head(early + self.b(self.norm(self.a(x.flip(1)))))

    model = quantized(Twice(), size=24)
    packed = convert(model, torch.randn(2, 3, 24, 24))
    result = verify(model, packed, torch.randn(2, 3, 24, 24))
    assert result.mismatches == 0 and result.at_rounding == 0, str(result)


def test_no_float_operation_of_a_residual_u_net_is_left(quantized):
    packed = convert(quantized(MBUNet(width=32, shortcuts=True)), torch.randn(1, 3, 32, 32))
    floats = [
        n.target
        for n in packed.graph_module.graph.nodes
        if n.op == "call_function" and getattr(n.target, "namespace", "") == "aten"
    ]
    assert set(floats) <= {aten.cat.default, aten.slice.Tensor}


def test_compiled_residual_network_agrees(quantized):
    packed = convert(quantized(MBUNet(width=8, shortcuts=True)), torch.randn(1, 3, 32, 32))
    compiled = torch.compile(packed, fullgraph=True)
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), packed(images), rtol=0, atol=1e-5)
