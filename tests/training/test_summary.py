"""The table of layers: what it counts, and the kernel that it names."""

import io
import json

import pytest
import torch
from rich.console import Console
from torch import nn

from lightning_mbu import convert, make_plan, prepare, summary
from lightning_mbu.models import MBUNet
from lightning_mbu.prepare import quantized_layers
from mbu_ops.backends import cpu_kernels, serving_kernel, use_cpu_kernel

SIZE = (1, 3, 32, 32)


@pytest.fixture
def model():
    model = MBUNet(width=8)
    return prepare(model, make_plan(model, torch.empty(SIZE)))


def test_bits_bytes_and_density(model):
    before, after = summary(MBUNet(width=8), SIZE), summary(model, SIZE)
    assert before.one_bit_macs == 0 and {layer.bits for layer in before.layers} == {32}
    assert {layer.kernel for layer in before.layers} == {"torch"}
    assert after.one_bit_macs + after.float_macs == before.float_macs
    assert {layer.kind: layer.bits for layer in after.layers} == {"float": 32, "masked": 2, "binary": 1}
    layers = dict(quantized_layers(model))
    for layer in after.layers:
        if layer.name in layers:
            weight = layers[layer.name].quantized_weight()
            assert layer.mask_density == pytest.approx((weight != 0).float().mean().item())
            assert layer.weight_shape == tuple(weight.shape)
            assert layer.bytes == -(-weight.numel() * layer.bits // 8)
    assert after.compression > 10


def test_the_kernel_is_the_one_that_doctor_marks_as_chosen(model):
    chosen = next(kernel.name for kernel in cpu_kernels() if kernel.selected)
    named = {layer.kind: layer.kernel for layer in summary(model, SIZE).layers}
    assert named == {"float": "torch", "masked": chosen, "binary": chosen} and serving_kernel() == chosen
    with use_cpu_kernel("scalar"):
        assert {layer.kernel for layer in summary(model, SIZE).layers} == {"torch", "scalar"}
    with pytest.raises(ValueError, match="no device 'cuda:99'"):
        summary(model, SIZE, device="cuda:99")
    with pytest.raises(ValueError, match="no device 'tpu'"):
        summary(model, SIZE, device="tpu")


def test_as_text_in_a_terminal_and_as_json(model):
    found = summary(model, SIZE)
    text = str(found)
    assert "GMAC one-bit" in text and "up4.transpose" in text and "\x1b" not in text
    terminal = io.StringIO()
    Console(file=terminal, force_terminal=True, width=160).print(found)
    assert "\x1b[" in terminal.getvalue() and "up4.transpose" in terminal.getvalue()
    data = json.loads(found.to_json())
    assert data["one_bit_macs"] == found.one_bit_macs and data["compression"] == found.compression
    first = data["layers"][1]
    assert first["kernel"] == found.layers[1].kernel and first["bytes"] == found.layers[1].bytes
    assert first["mask_density"] + first["zeros"] == pytest.approx(1)


def test_a_compiled_model_is_read_inside(model):
    assert summary(torch.compile(model, backend="eager"), SIZE) == summary(model, SIZE)


def test_packed_weights_have_the_size_that_is_announced(model):
    images = torch.zeros(SIZE)
    packed = convert(model.eval(), images)
    densities = {layer.name: (packed.weight(layer) != 0).float().mean().item() for layer in packed.layers}
    for layer in summary(model, SIZE).layers:
        if layer.kind != "float":
            assert densities[layer.name] == pytest.approx(layer.mask_density)


class Mixer(nn.Module):
    """Two linear layers over pixels between two convolutions, as in the encoders that are transformers."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 1, 1)
        self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(x.permute(0, 2, 3, 1))
        weights = (y @ y.transpose(-1, -2)).softmax(-1)
        y = self.down(torch.relu(self.up(weights @ y)))
        return self.head(x + y.permute(0, 3, 1, 2))


@pytest.mark.filterwarnings("ignore:only .* become one-bit:UserWarning")
def test_linear_layers_are_listed_and_counted():
    torch.manual_seed(0)
    model, rows = Mixer(), 32 * 32
    before = summary(model, SIZE)
    assert [layer.name for layer in before.layers] == ["stem", "up", "down", "head"]
    up = before.layers[1]
    assert (up.role, up.kind, up.bits, up.shape, up.macs) == (
        "linear",
        "float",
        32,
        (rows, 64),
        rows * 32 * 64,
    )
    assert before.other_macs == 2 * rows * 32 * 32  # the two products of attention
    prepare(model, make_plan(model, torch.empty(SIZE), linear=True))
    after = summary(model, SIZE)
    assert [layer.kind == "float" for layer in after.layers] == [True, False, False, True]
    assert [layer.bits for layer in after.layers[1:3]] == [
        2 if x.kind == "masked" else 1 for x in after.layers[1:3]
    ]
    assert after.one_bit_macs == 2 * up.macs and after.other_macs == before.other_macs
    assert after.one_bit_macs + after.float_macs == before.float_macs
    assert "1024x64" in str(after) and "attention" in str(after)
    assert after.layers[1].kernel == serving_kernel() and json.loads(after.to_json())["other_macs"]
