"""Linear layers, one-bit where a plan asks for them: trained form, packed form, files, export, and smp's transformers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_mbu import MBUQuantize, convert, load, make_plan, prepare, save, summary, verify
from lightning_mbu.deploy.portable import portable
from lightning_mbu.linear import MaskedBinaryLinear, quantize_linear
from lightning_mbu.plan import Plan


class Mixer(nn.Module):
    """A convolution, a block of linear layers over the pixels as a transformer has them, a head."""

    def __init__(self, bias: bool = True):
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, padding=1)
        self.norm = nn.LayerNorm(40)
        self.wide = nn.Linear(40, 96, bias=bias)
        self.narrow = nn.Linear(96, 40, bias=bias)
        self.conv = nn.Conv2d(40, 40, 3, padding=1)
        self.gate = nn.Linear(40, 40)
        self.head = nn.Conv2d(40, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.narrow(nn.functional.gelu(self.wide(self.norm(tokens))))
        x = self.conv(tokens.transpose(1, 2).reshape(x.shape))
        x = x * self.gate(x.mean((2, 3)))[:, :, None, None]
        return self.head(x)


EXAMPLE = (1, 3, 16, 24)


def trained(bias: bool = True, **options) -> Mixer:
    torch.manual_seed(3)
    model = Mixer(bias)
    plan = make_plan(model, torch.zeros(EXAMPLE), linear=True)
    prepare(model, plan, **options)
    for name in ("wide", "narrow"):
        layer = getattr(model, name)
        with torch.no_grad():
            if layer.learns_threshold:
                layer.threshold.normal_(0, 0.2)
            if layer.scale is not None:
                layer.scale.uniform_(0.02, 0.1)
    return model.eval()


def test_a_plan_leaves_linear_layers_alone_unless_asked() -> None:
    model, example = Mixer(), torch.zeros(EXAMPLE)
    plan, asked = make_plan(model, example), make_plan(model, example, linear=True)
    assert [layer.name for layer in plan.layers] == ["stem", "conv", "head"]
    rows = {layer.name: layer for layer in asked.layers}
    assert list(rows) == ["stem", "wide", "narrow", "conv", "gate", "head"]
    assert rows["wide"].kind != "float" and rows["narrow"].kind != "float"
    assert rows["wide"].role == "linear"
    assert (rows["wide"].threshold, rows["narrow"].threshold) == ("zero", "learned")  # layer norm, GELU
    assert "one row" in rows["gate"].reason
    assert rows["wide"].macs == 16 * 24 * 40 * 96
    assert asked.one_bit_share > plan.one_bit_share
    total = sum(x.macs for x in plan.layers) + plan.other_macs
    assert sum(x.macs for x in asked.layers) + asked.other_macs == total
    assert Plan.from_json(asked.to_json()) == asked
    assert make_plan(model, example, linear=True, exclude=["wide"]).layers[1].reason == "excluded by name"


@pytest.mark.parametrize("kind", ["masked", "binary"])
def test_the_gate_leads_from_the_float_layer_to_signs(kind: str) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(20, 12)
    layer = quantize_linear(copy.deepcopy(plain), kind, threshold="learned")
    x = torch.randn(3, 7, 20)
    layer.gate.fill_(0)
    torch.testing.assert_close(layer(x), plain(x))
    layer.gate.fill_(1)
    signs = torch.where(x >= 0, 1.0, -1.0)
    dots = signs @ layer.quantized_weight().T
    assert layer.scale is not None and layer.bias is not None
    assert torch.equal(layer.eval()(x), dots * layer.scale + layer.bias)
    layer.train()
    layer(x).sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert set(plain.state_dict()) < set(layer.state_dict())


def test_other_layers_are_refused() -> None:
    with pytest.raises(TypeError, match="only nn.Linear can"):
        quantize_linear(nn.Bilinear(3, 4, 5), "masked")  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"scale": "none"}, {"scale": "analytic"}], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_packed_and_trained_network_agree(options: dict, bias: bool, tmp_path) -> None:
    model, example = trained(bias, **options), torch.randn(EXAMPLE)
    packed = convert(model, example)
    batch = torch.randn(3, 3, 32, 16)
    found = verify(model, packed, batch)
    assert found.ok and found.mismatches == 0, str(found)
    assert {layer.name for layer in found.layers} >= {"wide", "narrow", "conv"}
    calls = [str(node.target) for node in packed.graph_module.graph.nodes if node.op == "call_function"]
    assert calls.count("mbu.gemm.default") == 2
    assert not [call for call in calls if "linear" in call and "gate" in call]
    torch.testing.assert_close(packed(batch), model(batch), rtol=1e-4, atol=1e-4)
    loaded = load(save(packed, tmp_path / "model.mbu"))
    assert torch.equal(loaded(batch), packed(batch))
    torch.testing.assert_close(portable(model)(batch), model(batch), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_wrong_bit_of_a_linear_layer_is_counted() -> None:
    model, example = trained(), torch.randn(EXAMPLE)
    packed = convert(model, example)
    model.narrow.threshold += 0.5  # type: ignore[operator]
    assert not verify(model, packed, torch.randn(1, 3, 16, 16)).ok


@torch.no_grad()
def test_it_compiles() -> None:
    model, example = trained(), torch.randn(EXAMPLE)
    packed = convert(model, example)
    torch.testing.assert_close(torch.compile(packed)(example), packed(example), rtol=1e-5, atol=1e-5)


def test_the_callback_takes_the_option() -> None:
    assert MBUQuantize(linear=True).recipe.linear
    assert not MBUQuantize().recipe.linear


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:only .* of the multiply-adds become one-bit:UserWarning")
def test_a_transformer_encoder_of_smp() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    model, example = smp.Unet("mit_b0", encoder_weights=None).eval(), torch.randn(1, 3, 64, 64)
    plain = make_plan(model, example)
    plan = make_plan(model, example, linear=True)
    assert plan.one_bit_share > plain.one_bit_share
    prepare(model, plan)
    linear = [name for name, m in model.named_modules() if isinstance(m, MaskedBinaryLinear)]
    assert linear
    packed = convert(model, example)
    found = verify(model, packed, torch.randn(2, 3, 64, 96))
    assert found.ok, str(found)
    assert set(linear) <= {layer.name for layer in found.layers}
    assert summary(model, (1, 3, 64, 64)).one_bit_macs > 0
