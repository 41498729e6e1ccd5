import pytest
import torch
from torch import nn

from lightning_mbu.layers import MaskedBinaryConv2d, quantize_layer
from lightning_mbu.linear import quantize_linear
from lightning_mbu.quantizers import ESTIMATORS, BinaryWeight, MaskedWeight, binarize_activation


def gate(value):
    return torch.tensor(float(value))


def test_sign_of_zero_is_plus_one():
    x = torch.tensor([-1e-30, -0.0, 0.0, 1e-30]).view(1, 4, 1, 1)
    assert binarize_activation(x, torch.zeros(1, 4, 1, 1), gate(1)).flatten().tolist() == [-1, 1, 1, 1]
    assert BinaryWeight()(x).flatten().tolist() == [-1, 1, 1, 1]


@pytest.mark.parametrize(
    "absorbs, function", [("none", lambda x: x), ("relu", torch.relu), ("relu6", nn.functional.relu6)]
)
def test_gate_zero_is_the_float_activation_in_value_and_gradient(absorbs, function):
    x = (4 * torch.randn(2, 3, 4, 4)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    threshold = torch.rand(1, 3, 1, 1, requires_grad=True)
    upstream = torch.randn(2, 3, 4, 4)
    found = binarize_activation(x, threshold, gate(0), absorbs=absorbs)
    found.backward(upstream)
    function(y).backward(upstream)
    assert torch.equal(found, function(y))
    assert torch.equal(x.grad, y.grad)
    assert torch.count_nonzero(threshold.grad) == 0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gate_one_has_the_estimators_gradient(name):
    x = (2 * torch.randn(2, 3, 4, 4)).requires_grad_()
    threshold = torch.rand(1, 3, 1, 1, requires_grad=True)
    upstream = torch.randn(2, 3, 4, 4)
    binarize_activation(x, threshold, gate(1), name).backward(upstream)
    slope = ESTIMATORS[name]((x - threshold).detach())
    assert torch.allclose(x.grad, upstream * slope)
    assert torch.allclose(threshold.grad, -(upstream * slope).sum((0, 2, 3), keepdim=True), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_clipped_gradient_reaches_one_and_no_further(dtype):
    one = torch.ones((), dtype=dtype)
    x = torch.stack([one, torch.nextafter(one, 2 * one), -one, torch.nextafter(-one, -2 * one)]).view(
        1, 4, 1, 1
    )
    x.requires_grad_()
    binarize_activation(x, torch.zeros(1, 4, 1, 1, dtype=dtype), gate(1)).sum().backward()
    assert x.grad.flatten().tolist() == [1, 0, 1, 0]


def test_estimators_by_hand():
    x = torch.tensor([-2.0, -1.0, -0.25, 0.0, 0.5, 1.0, 3.0])
    assert ESTIMATORS["clipped"](x).tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert ESTIMATORS["approx_sign"](x).tolist() == [0, 0, 1.5, 2, 1, 0, 0]
    assert ESTIMATORS["tanh"](x)[3] == 1


def test_twn_mask():
    w = torch.tensor([0.1, -0.5, 1.0, -2.0])  # mean magnitude 0.9, threshold 0.63
    assert MaskedWeight()(w).tolist() == [0, 0, 1, -1]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_target_sparsity(share):
    torch.manual_seed(0)
    zeros = (MaskedWeight("sparsity", share)(torch.randn(1000)) == 0).float().mean()
    assert zeros == pytest.approx(share, abs=0.002)


def test_learned_mask_starts_as_twn_and_moves_against_its_gradient():
    torch.manual_seed(0)
    quantizer, w = MaskedWeight("learned"), torch.randn(500)
    assert torch.equal(quantizer(w), MaskedWeight()(w))
    # Loss = number of weights present: more masking lowers it, so the factor must be pushed up.
    quantizer(w).abs().sum().backward()
    assert quantizer.factor.grad < 0


def test_weight_gradient_is_clipped_at_one():
    w = torch.tensor([0.5, 1.5, -0.9, -1.1], requires_grad=True)
    for quantizer in (BinaryWeight(), MaskedWeight()):
        w.grad = None
        quantizer(w).sum().backward()
        assert w.grad.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("options, words", [
    ({"kind": "ternary"}, "'masked' or 'binary'"), ({"kind": "masked", "mask_rule": "x"}, "choose one of"),
    ({"kind": "masked", "mask_rule": "sparsity", "sparsity": 1.0}, r"in \[0, 1\)"), ({"kind": "binary", "estimator": "x"}, "estimator='x'"),
    ({"kind": "binary", "absorbs": "gelu"}, "absorbs='gelu'"), ({"kind": "binary", "threshold": "x"}, "threshold='x'"),
])  # fmt: skip
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        quantize_layer(nn.Conv2d(8, 8, 3), **options)


def test_only_plain_convolutions():
    with pytest.raises(TypeError, match="Linear cannot be quantized"):
        quantize_layer(nn.Linear(3, 3), "binary")
    with pytest.raises(ValueError, match="groups=2"):
        quantize_layer(nn.ConvTranspose2d(8, 8, 3, groups=2), "binary")


@pytest.mark.parametrize("make", [
    lambda: nn.Conv2d(8, 12, 3, padding=1), lambda: nn.Conv2d(8, 12, 3, padding=1, groups=2),
    lambda: nn.ConvTranspose2d(8, 12, 2, 2, bias=False),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["masked", "binary"])
@pytest.mark.parametrize("scale", [True, False])
def test_layer_keeps_parameters_and_is_float_at_gate_zero(make, kind, scale):
    torch.manual_seed(0)
    plain, x = make(), torch.randn(2, 8, 6, 6)
    layer = quantize_layer(plain, kind, scale=scale, threshold="learned")
    assert layer.weight is plain.weight and layer.bias is plain.bias
    assert set(plain.state_dict()) <= set(layer.state_dict())
    assert set(layer.state_dict()) - set(plain.state_dict()) == {"threshold"} | (
        {"scale"} if scale else set()
    )
    assert type(plain) in (nn.Conv2d, nn.ConvTranspose2d)
    layer.gate.fill_(0)
    assert torch.allclose(layer(x), plain(x), atol=1e-5)


@pytest.mark.parametrize("kind", ["masked", "binary"])
def test_layer_at_gate_one_scales_an_exact_integer(kind):
    torch.manual_seed(0)
    layer = quantize_layer(nn.Conv2d(40, 12, 3, padding=1), kind).eval()
    x = torch.randn(2, 40, 7, 7)
    signs = torch.where(x >= 0, 1.0, -1.0).double()
    dot = nn.functional.conv2d(signs, layer.quantized_weight().double(), padding=1)
    expected = dot.float() * layer.effective_scale().view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("make, shape", [
    (lambda: quantize_layer(nn.Conv2d(8, 12, 3), "masked"), (2, 8, 6, 6)),
    (lambda: quantize_layer(nn.ConvTranspose2d(8, 12, 2, 2), "binary"), (2, 8, 6, 6)),
    (lambda: quantize_linear(nn.Linear(8, 12), "masked"), (5, 8)),
])  # fmt: skip
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_training_mode_computes_the_same_up_to_rounding(make, shape, value):
    torch.manual_seed(0)
    layer, x = make(), torch.randn(shape, requires_grad=True)
    torch.nn.init.uniform_(layer.scale, 0.1, 2)
    layer.gate.fill_(value)
    found = {}
    for training in (False, True):
        layer.train(training).zero_grad()
        x.grad = None
        y = layer(x)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        found[training] = [y, x.grad, *(p.grad for p in layer.parameters())]
    for exact, fast in zip(found[False], found[True], strict=True):
        assert torch.allclose(exact, fast, rtol=1e-4, atol=1e-4)


def test_what_is_learned_rests_in_the_float_phase_and_nothing_is_unused():
    torch.manual_seed(0)
    layer = quantize_layer(
        nn.Conv2d(8, 8, 3), "masked", mask_rule="learned", threshold="learned", absorbs="relu"
    )
    x = torch.randn(2, 8, 6, 6)
    for value in (0.0, 0.5, 1.0):
        layer.zero_grad()
        layer.gate.fill_(value)
        layer(x).square().sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())
        resting = [layer.scale.grad, layer.threshold.grad, layer.weight_quantizer.factor.grad]
        assert all((torch.count_nonzero(grad) == 0) == (value == 0) for grad in resting)


def test_scale_stays_positive():
    layer = quantize_layer(nn.Conv2d(8, 8, 3), "binary")
    with torch.no_grad():
        layer.scale.copy_(torch.linspace(-1, 1, 8))
        layer.scale[3] = 0
    assert (layer.effective_scale() > 0).all()
    assert torch.isfinite(layer(torch.randn(1, 8, 5, 5))).all()


def test_layers_compile_to_one_graph_over_all_phases():
    torch.manual_seed(0)
    layer = quantize_layer(nn.Conv2d(8, 8, 3), "masked")
    assert isinstance(layer, MaskedBinaryConv2d)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 8, 6, 6)
    for value in (0.0, 0.5, 1.0):
        layer.gate.fill_(value)
        with torch.compiler.set_stance("default" if value == 0 else "fail_on_recompile"):
            assert torch.allclose(compiled(x), layer(x), atol=1e-6)
