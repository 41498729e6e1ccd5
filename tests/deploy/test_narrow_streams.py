"""Float streams in bfloat16 and int8: exact where the network was trained with them, counted where it was not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_mbu import convert, load, save, verify
from lightning_mbu.deploy.graph import STREAMS, is_call
from lightning_mbu.models import MBUNet
from lightning_mbu.quantizers import round_stream

aten = torch.ops.aten


def streams(packed):
    return [n for n in packed.graph_module.graph.nodes if is_call(n, *STREAMS)]


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 48, 32)


NARROW = {"bfloat16": torch.bfloat16, "int8": torch.int8}


@pytest.mark.parametrize("name", NARROW)
def test_trained_with_rounded_streams_is_exact(name, quantized, images, tmp_path):
    model = quantized(MBUNet(width=16, shortcuts=True, stream_dtype=name))
    packed, unfused = convert(model, images[:, :, :32]), convert(model, images[:, :, :32], fuse=False)
    result = verify(model, packed, images)
    assert result.mismatches == 0 and not result.rounds_streams, str(result)
    kinds = [n.kwargs.get("dtype") for n in streams(packed)]
    assert kinds == [NARROW[name]] * (len(kinds) - 1) + [None], (
        "only the last stream, read by the head, stays float"
    )
    assert not [n for n in packed.graph_module.graph.nodes if is_call(n, aten.to.dtype, aten.round.default)]
    assert not streams(unfused)
    loaded = load(save(packed, tmp_path / "net.mbu"))
    assert torch.equal(loaded(images), packed(images))


class Rounded(nn.Module):
    """Two rounded additions; the second is read by a convolution and, as float, by the output."""

    def __init__(self, relu, dtype):
        super().__init__()
        self.stem, self.relu, self.dtype = nn.Conv2d(3, 40, 3, padding=1), relu, dtype
        self.a, self.norm1 = nn.Conv2d(40, 40, 3, padding=1), nn.BatchNorm2d(40)
        self.b, self.norm2 = nn.Conv2d(40, 40, 3, padding=1), nn.BatchNorm2d(40)
        self.c, self.head = nn.Conv2d(40, 8, 3, padding=1), nn.Conv2d(48, 5, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.relu(round_stream(self.norm1(self.a(x)) + x, self.dtype))
        z = self.relu(round_stream(self.norm2(self.b(y)) + y, self.dtype))
        return self.head(torch.cat([self.c(z), z], 1))


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("relu", [nn.Identity(), nn.ReLU()])
def test_other_readers_see_the_rounded_values(relu, name, quantized):
    model = quantized(Rounded(relu, name), size=24)
    packed = convert(model, torch.randn(1, 3, 24, 24))
    result = verify(model, packed, x := torch.randn(2, 3, 24, 28))
    assert result.mismatches == 0 and result.at_rounding == 0, str(result)
    assert [n.kwargs.get("dtype") for n in streams(packed)][:3] == [None] + [NARROW[name]] * 2
    assert torch.equal(packed(x), convert(model, x, fuse=False)(x))


def test_rounding_afterwards_is_counted_and_said(quantized, images, tmp_path):
    model = quantized(MBUNet(width=16, shortcuts=True))
    exact = convert(model, images[:, :, :32])
    packed = load(save(convert(model, images[:, :, :32], stream_dtype="bfloat16"), tmp_path / "net.mbu"))
    found = verify(model, packed, images)
    assert found.rounds_streams and found.mismatches + found.at_rounding > 0 and "NOT EXACT" in str(found)
    total = sum(layer.bits for layer in found.layers)
    assert found.mismatches < 0.02 * total
    assert not verify(model, exact, images).rounds_streams
    assert sum(n.kwargs.get("dtype") == torch.bfloat16 for n in streams(packed)) == len(streams(packed)) - 1
    assert packed(images).dtype == torch.float32


def test_int8_passes_gradients_inside_its_range():
    x = torch.cat([torch.linspace(-9, 9, 1000), torch.tensor([-8.0, 127 / 16])]).requires_grad_()
    y = round_stream(x, "int8")
    y.sum().backward()
    assert (
        torch.equal(x.grad, ((x >= -8) & (x <= 127 / 16)).float()) and y.min() == -8 and y.max() == 127 / 16
    )
    assert torch.equal(y, torch.fake_quantize_per_tensor_affine(x, 1 / 16, 0, -128, 127))


def test_gradient_passes_straight_through():
    x = torch.randn(64, requires_grad=True)
    gradient = torch.randn(64)
    round_stream(x).backward(gradient)
    assert torch.equal(x.grad, gradient) and torch.equal(round_stream(x), x.detach().bfloat16().float())


@pytest.mark.parametrize(
    "options", [{"stream_dtype": "float16", "shortcuts": True}, {"stream_dtype": "bfloat16"}]
)
def test_bad_stream_types_are_named(options, quantized):
    with pytest.raises(ValueError, match="it must be one of float32, bfloat16, int8"):
        MBUNet(width=8, **options)
    with pytest.raises(ValueError, match="stream_dtype='float16'; it must be"):
        convert(MBUNet(width=8), torch.randn(1, 3, 32, 32), stream_dtype="float16")
