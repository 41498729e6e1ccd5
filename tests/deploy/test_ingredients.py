"""What training options add must come out of conversion bit for bit."""

import pytest
import torch
from torch import nn

from lightning_mbu import convert, load, make_plan, prepare, save, verify
from lightning_mbu.deploy.graph import FUSED_CONVOLUTIONS, STREAM_CONVOLUTIONS, is_call
from lightning_mbu.models import Standardised
from lightning_mbu.models.unet import DoubleConv, Stem, Up

OPTIONS = {
    "thermometer": (False, {"planes": 2}),
    "thermometer, shortcuts of the model": (True, {"planes": 3}),
    "added shortcuts, shifted activations": (False, {"planes": 2, "shortcuts": True, "shift": True}),
}


class SmallUNet(nn.Module):
    """One level of `MBUNet`: 6 one-bit layers."""

    def __init__(self, width, shortcuts=False):
        super().__init__()
        self.stem, self.pool = Stem(3, width, shortcuts), nn.MaxPool2d(2)
        self.down, self.up = DoubleConv(width, width, shortcuts), Up(width, width, shortcuts)
        self.activation, self.head = nn.ReLU(), nn.Conv2d(width, 1, 1)

    def forward(self, x):
        skip = self.stem(x)
        return self.head(self.activation(self.up(self.down(self.pool(skip)), skip)))


@pytest.mark.parametrize("name", OPTIONS)
def test_packed_network_computes_the_trained_networks_bits(name, quantized, tmp_path):
    shortcuts, options = OPTIONS[name]
    model = quantized(SmallUNet(12, shortcuts), **options)  # 12: parts of a concat end inside a word
    x = torch.randn(2, 3, 32, 48)
    packed = convert(model, x[:, :, :, :32])
    result = verify(model, packed, x)
    assert result.ok and result.at_rounding == 0, str(result)
    assert torch.equal(load(save(packed, tmp_path / "model.mbu"))(x), packed(x))


def test_thermometer_needs_no_float_between_layers(quantized):
    packed = convert(quantized(SmallUNet(32), planes=2), torch.randn(1, 3, 32, 32))
    calls = [node for node in packed.graph_module.graph.nodes if node.op == "call_function"]
    assert sum(is_call(node, *FUSED_CONVOLUTIONS) for node in calls) == 5
    assert [len(layer.segments) for layer in packed.layers] == [2, 2, 2, 2, 4, 2]


def test_added_shortcuts_run_inside_the_convolution(quantized):
    packed = convert(quantized(SmallUNet(8), shortcuts=True), torch.randn(1, 3, 32, 32))
    calls = [node for node in packed.graph_module.graph.nodes if node.op == "call_function"]
    streams = [node for node in calls if is_call(node, *STREAM_CONVOLUTIONS)]
    assert sum(bool(node.args[3]) for node in streams) == 4
    assert not any(is_call(node, torch.ops.aten.add.Tensor) for node in calls)


class PooledConcat(nn.Module):
    """The parts of a concat, of 20 channels each, are pooled together: two segments of one word."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20)
        self.a, self.b = nn.Conv2d(40, 20, 3, padding=1), nn.Conv2d(20, 1, 1)

    def forward(self, x):
        y = self.norm(self.stem(x))
        return self.b(self.a(nn.functional.max_pool2d(torch.cat([y, -y], 1), 2)))


def test_segments_behind_a_pool_follow_the_concat_in_front_of_it(quantized):
    model, x = quantized(PooledConcat()), torch.randn(2, 3, 32, 32)
    packed = convert(model, x)
    assert verify(model, packed, x).mismatches == 0
    assert packed.layers[0].segments == (20, 20)


@pytest.mark.parametrize("options", [{"scale": "analytic"}, {"mask_blocks": (16, 16), "block_density": 0.25}])
def test_options_of_weights(options):
    torch.manual_seed(0)
    model, x = SmallUNet(16).eval(), torch.randn(1, 3, 32, 32)
    prepare(model, make_plan(model, x, masked="all"), **options)
    assert verify(model, convert(model, x), x).mismatches == 0


def test_integer_weights_are_not_packed():
    model, x = SmallUNet(8), torch.empty(1, 3, 32, 32)
    plan = make_plan(model, x)
    integer = type(plan)(
        tuple(
            type(layer)(**{**vars(layer), "kind": "int4"}) if layer.kind != "float" else layer for layer in plan.layers
        ),
        plan.bypassed, plan.input_shape,
    )  # fmt: skip
    with pytest.raises(ValueError, match="6 layers have integer weights"):
        convert(prepare(model, integer), x)


def test_standardisation_is_saved_with_the_network(tmp_path):
    inner = SmallUNet(8)
    model, x = Standardised(inner).eval(), torch.rand(2, 3, 32, 32) * 200
    expected = (x - x.mean((1, 2, 3), keepdim=True)) / x.flatten(1).std(1, correction=0).view(2, 1, 1, 1)
    assert torch.allclose(model(x), inner(expected), atol=1e-4)
    assert torch.isfinite(model(torch.zeros(1, 3, 32, 32))).all()
    assert torch.allclose(model(x / 255), model(x), atol=1e-4)
    prepare(model, make_plan(model, x))
    packed = load(save(convert(model, x), tmp_path / "model.mbu"))
    assert torch.allclose(packed(x), model(x), atol=1e-3)
    assert torch.allclose(Standardised(nn.Identity())(expected), expected, atol=1e-5), (
        "nothing is left to be done"
    )
    with pytest.raises(ValueError, match="smallest=0"):
        Standardised(inner, 0)
