"""Options of layers, weights and activations, each against a few lines of plain torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_mbu import make_plan, prepare
from lightning_mbu.layers import quantize_layer
from lightning_mbu.models import MBUNet
from lightning_mbu.prepare import quantized_layers
from lightning_mbu.quantizers import binarize_activation
from lightning_mbu.residual import RPReLU
from lightning_mbu.schedule import Phases, sharpness
from lightning_mbu.weight_quantizers import IntegerWeight


@pytest.mark.parametrize("t", [0.1, 1.0, 10.0])
def test_annealed_estimator_is_ir_nets(t):
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    zeros, one = torch.zeros(1, 3, 1, 1), torch.ones(())
    binarize_activation(x, zeros, one, "annealed", sharpness=torch.tensor(t)).sum().backward()
    (max(1 / t, 1) * torch.tanh(t * y)).sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-4)


def test_sharpness_rises_by_a_constant_factor():
    assert [sharpness(p) for p in (0, 0.5, 1)] == pytest.approx([0.1, 1, 10])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("planes", [2, 3])
def test_thermometer_adds_up_planes_with_their_own_weights(transposed, planes):
    make, function = (nn.ConvTranspose2d, F.conv_transpose2d) if transposed else (nn.Conv2d, F.conv2d)
    layer = quantize_layer(
        make(8, 12, 3, bias=False), "masked", threshold="learned", planes=planes, scale=False
    )
    with torch.no_grad():
        layer.plane_weight.normal_()
        layer.threshold.normal_()
    x = torch.randn(2, 8, 6, 6)
    pieces = layer.quantized_weight().chunk(planes, layer.input_axis)
    signs = [torch.where(x >= t.view(1, -1, 1, 1), 1.0, -1.0) for t in layer.threshold.chunk(planes)]
    assert torch.equal(layer(x), sum(function(s, w) for s, w in zip(signs, pieces, strict=True)))


def test_thermometer_starts_as_an_even_code_and_as_the_float_layer():
    plain, x = nn.Conv2d(8, 12, 3, padding=1), torch.randn(64, 8, 5, 5)
    layer = quantize_layer(plain, "binary", threshold="learned", planes=3)
    layer.spread_thresholds(x.mean((0, 2, 3)), x.std((0, 2, 3)))
    levels = sum(layer.binarize(x).chunk(3, 1))
    shares = torch.stack([(levels == level).float().mean() for level in (-3, -1, 1, 3)])
    assert torch.allclose(shares, torch.full((4,), 0.25), atol=0.03)
    assert all(torch.equal(part, plain.weight) for part in layer.latent_weight().chunk(3, 1))
    layer.gate.fill_(0)
    assert torch.allclose(layer(x), plain(x), atol=1e-5)
    layer(x).sum().backward()
    assert torch.count_nonzero(layer.plane_weight.grad) == 0, "in the graph, and at rest in the float phase"


def test_integer_weights_against_fake_quantization():
    weight = torch.randn(6, 4, 3, 3, requires_grad=True)
    for bits in (2, 4, 8):
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        step = 2 * weight.detach().abs().mean((1, 2, 3)) / high**0.5
        expected = torch.fake_quantize_per_channel_affine(
            weight, step, torch.zeros(6, dtype=torch.int32), 0, low, high
        )
        weight.grad = None
        found = IntegerWeight(bits)(weight)
        found.sum().backward()
        assert torch.allclose(found, expected, atol=1e-6)
        inside = (weight / step.view(-1, 1, 1, 1)).detach()
        assert torch.equal(weight.grad == 1, (inside >= low) & (inside <= high))


def test_analytic_scale_is_the_mean_of_what_is_present():
    layer = quantize_layer(nn.Conv2d(8, 12, 3), "masked", scale="analytic")
    present = layer.quantized_weight() != 0
    expected = [w[m].abs().mean() for w, m in zip(layer.weight, present, strict=True)]
    assert torch.allclose(layer.effective_scale(), torch.stack(expected))
    assert "scale" not in layer.state_dict()
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.allclose(layer.effective_scale(), 2 * torch.stack(expected))


def test_rprelu_by_hand():
    module, x = RPReLU(2), torch.randn(3, 2, 4, 4)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_()
    gamma, zeta, beta = (p.view(1, -1, 1, 1) for p in (module.gamma, module.zeta, module.beta))
    assert torch.allclose(module(x), torch.where(x > gamma, x - gamma, beta * (x - gamma)) + zeta)


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.norm_a = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.b, self.norm_b = nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        x = self.norm_a(self.a(torch.relu(self.stem(x))))
        return self.head(self.norm_b(self.b(torch.relu(x))))


def test_shortcuts_go_around_layers_of_equal_shape_and_fade_in():
    model, x = Chain().eval(), torch.randn(2, 3, 8, 8)
    before, keys = model(x), set(model.state_dict())
    plan = make_plan(model, x, shortcuts=True, shift=True)
    assert {layer.name for layer in plan.layers if layer.shortcut} == {"a"}
    prepare(model, plan)
    prepare(model, plan)
    assert {key for key in set(model.state_dict()) - keys if "norm" in key} == {
        f"norm_a.shift.{name}" for name in ("gamma", "zeta", "beta")
    }
    inputs = torch.relu(model.stem(x))
    dot = F.conv2d(model.a.binarize(inputs), model.a.quantized_weight(), padding=1)
    y = dot * model.a.effective_scale().view(1, -1, 1, 1) + model.a.bias.view(1, -1, 1, 1)
    norm = model.norm_a
    y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    assert torch.equal(model.a(inputs), norm.shift(y) + inputs)
    for _, layer in quantized_layers(model):
        layer.gate.fill_(0)
    assert torch.allclose(model(x), before, atol=1e-5)


def test_sums_that_are_there_already_get_shifted_activations_only():
    model = MBUNet(width=8, shortcuts=True)
    plan = make_plan(model, torch.empty(1, 3, 32, 32), shortcuts=True, shift=True)
    assert not any(layer.shortcut for layer in plan.layers)
    assert sum(layer.shift for layer in plan.layers) == len(plan.quantized)
    assert type(plan).from_json(plan.to_json()) == plan


def test_two_stages_switch_activations_first():
    phases = Phases(0.2, 0.2, weights_after=0.3)
    gates = [(phases.gate(p, 0, 2), phases.weight_gate(p, 0, 2)) for p in (0.1, 0.2, 0.49, 0.51, 0.7)]
    assert gates == [(0, 0), (1, 0), (1, 0), (1, 1), (1, 1)]
    with pytest.raises(ValueError, match="weights_after=0.9 add up"):
        Phases(0.2, weights_after=0.9)
    layer, x = quantize_layer(nn.Conv2d(8, 8, 3, bias=False), "masked"), torch.randn(1, 8, 5, 5)
    layer.weight_gate.fill_(0)
    assert torch.allclose(layer(x), F.conv2d(layer.binarize(x), layer.weight), atol=1e-4)


@pytest.mark.parametrize("options, words", [
    ({"kind": "masked", "planes": 2}, "threshold='learned'"), ({"kind": "binary", "scale": "x"}, "scale='x'"),
    ({"kind": "masked", "mask_blocks": (0, 4)}, "two counts"),
    ({"kind": "masked", "mask_blocks": (4, 4), "block_density": 0.0}, "share of blocks"),
])  # fmt: skip
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        quantize_layer(nn.Conv2d(8, 8, 3), **options)
