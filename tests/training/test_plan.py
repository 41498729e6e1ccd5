import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from lightning_mbu import Plan, make_plan
from lightning_mbu.models import MBUNet


class PlainUNet(nn.Module):
    """A user's own little U-Net: in-place ReLUs, bilinear upsampling, squeeze-excite, grouped and thin layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.grouped = nn.Conv2d(32, 32, 1, groups=2)
        self.thin_groups = nn.Conv2d(32, 32, 3, padding=1, groups=8)
        self.squeeze = nn.Conv2d(32, 32, 1)
        self.reflect = nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect")
        self.thin = nn.Conv2d(32, 4, 1)
        self.wide = nn.Conv2d(4 + 16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        skip = self.relu(self.first(x))
        y = self.down(skip)
        y = self.reflect(self.thin_groups(self.grouped(self.depthwise(y))))
        y = y * self.squeeze(y.mean((2, 3), keepdim=True)).sigmoid()
        y = nn.functional.interpolate(self.thin(y), scale_factor=2, mode="bilinear")
        return self.last(self.wide(torch.cat([skip, y], 1)))


def by_name(plan):
    return {layer.name: layer for layer in plan.layers}


@pytest.mark.filterwarnings("ignore:only .* become one-bit:UserWarning")
def test_every_exclusion_has_its_reason():
    reasons = {
        name: layer.reason
        for name, layer in by_name(make_plan(PlainUNet(), torch.empty(1, 3, 32, 32))).items()
    }
    for name, words in {
        "first": "first executed", "depthwise": "depthwise", "thin_groups": "4 channels in each group", "squeeze": "squeeze-excite",
        "reflect": "padding mode", "thin": "4 channels", "last": "head",
    }.items():  # fmt: skip
        assert words in reasons[name], (name, reasons[name])


@pytest.mark.filterwarnings("ignore:only .* become one-bit:UserWarning")
def test_remaining_layers_become_one_bit_with_a_learned_threshold_where_input_is_not_centred():
    layers = by_name(make_plan(PlainUNet(), torch.empty(1, 3, 32, 32)))
    assert {name for name, layer in layers.items() if layer.kind != "float"} == {"down.0", "grouped", "wide"}
    assert layers["wide"].threshold == "learned"


def test_relu_read_by_a_binarizer_alone_is_absorbed():
    plan = make_plan(MBUNet(width=8), torch.empty(1, 3, 32, 32))
    assert len(plan.bypassed) == len(plan.quantized) == 21
    assert {layer.absorbs for layer in plan.quantized} == {"relu"}
    assert {layer.threshold for layer in plan.quantized} == {"zero"}


def test_relu_with_another_reader_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(n, 16, 3, padding=1) for n in (3, 16, 16))
            self.norm, self.relu = nn.BatchNorm2d(16), nn.ReLU()
            self.head = nn.Conv2d(16, 1, 1)

        def forward(self, x):
            y = self.relu(self.norm(self.a(x)))
            return self.head(self.c(self.b(y)) + y)

    plan = make_plan(Shared(), torch.empty(1, 3, 16, 16))
    assert plan.bypassed == ()
    assert by_name(plan)["b"].threshold == "learned"


@pytest.mark.parametrize("encoder, share", [("resnet34", 0.97), ("mobilenet_v2", 0.95)])
def test_smp_unet_is_almost_wholly_one_bit(encoder, share):
    plan = make_plan(smp.Unet(encoder, encoder_weights=None), torch.empty(1, 3, 64, 64))
    assert plan.one_bit_share > share
    roles = {layer.role for layer in plan.layers}
    assert roles == {"stem", "encoder", "decoder", "head"}


@pytest.mark.parametrize("order, first, last", [
    ("forward", "stem.conv2", "up4.block.conv2"), ("reverse", "up4.block.conv2", "stem.conv2"), ("cost", "stem.conv2", "down3.conv2"),
])  # fmt: skip
def test_orders(order, first, last):
    plan = make_plan(MBUNet(width=8), torch.empty(1, 3, 32, 32), order=order)
    assert (plan.quantized[0].name, plan.quantized[-1].name) == (first, last)


@pytest.mark.parametrize(
    "masked, kinds", [("all", {"masked"}), ("none", {"masked", "binary"}), (0.5, {"masked", "binary"})]
)
def test_masked_share(masked, kinds):
    plan = make_plan(MBUNet(width=8), torch.empty(1, 3, 32, 32), masked=masked)
    assert {layer.kind for layer in plan.quantized} == kinds
    if masked == "none":
        assert [layer.name for layer in plan.quantized if layer.kind == "masked"] == ["stem.conv2"]


def test_json_round_trip_and_table():
    plan = make_plan(MBUNet(width=8), torch.empty(1, 3, 32, 32))
    assert Plan.from_json(plan.to_json()) == plan
    assert "up4.transpose" in str(plan) and "become one-bit" in str(plan)


@pytest.mark.parametrize("text, words", [
    ("{", "not a plan"), ("[1]", "not a plan"), ('{"version": 99}', "reads up to 1"), ('{"version": 1}', "not a plan"),
])  # fmt: skip
def test_bad_plan_files(text, words):
    with pytest.raises(ValueError, match=words):
        Plan.from_json(text)


@pytest.mark.parametrize("options, words", [
    ({"masked": 1.5}, "between 0 and 1"), ({"masked": "most"}, "'all' or 'none'"), ({"order": "random"}, "choose one of"),
    ({"thresholds": "x"}, "auto, learned or zero"), ({"exclude": ["nose"]}, "does not have"), ({"min_channels": 999}, "nothing to quantize"),
])  # fmt: skip
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        make_plan(MBUNet(width=8), torch.empty(1, 3, 32, 32), **options)


def test_excluded_modules_stay_float():
    plan = make_plan(MBUNet(width=8), torch.empty(1, 3, 32, 32), exclude=["up4"])
    assert {layer.reason for layer in plan.layers if layer.name.startswith("up4.")} == {"excluded by name"}


def test_input_that_does_not_fit():
    with pytest.raises(ValueError, match=r"does not run on an example input of shape \(1, 4, 32, 32\)"):
        make_plan(MBUNet(width=8), torch.empty(1, 4, 32, 32))
    with pytest.raises(TypeError, match="give one tensor"):
        make_plan(MBUNet(width=8), [1, 3, 32, 32])


def test_model_without_convolutions():
    with pytest.raises(ValueError, match="it has no convolutions"):
        make_plan(nn.Identity(), torch.empty(1, 3, 8, 8))


def test_nan_weights_are_named():
    model = MBUNet(width=8)
    with torch.no_grad():
        model.down1.conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'down1.conv1' has NaN"):
        make_plan(model, torch.empty(1, 3, 32, 32))


def test_planning_leaves_the_model_as_it_was():
    model = MBUNet(width=8).train()
    model.down1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    make_plan(model, torch.empty(1, 3, 32, 32))
    assert model.training and not model.down1.training and model.down2.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_low_share_is_said_with_its_reasons():
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=2),
        nn.Conv2d(32, 32, 3, padding=1, groups=2), nn.Conv2d(32, 1, 1),
    )  # fmt: skip
    with pytest.warns(
        UserWarning, match=r"only 48% of the .* float stay 48% \(excluded by name\), 4% \(first executed"
    ):
        plan = make_plan(model, torch.empty(1, 3, 16, 16), exclude=["2", "3"])
    assert plan.one_bit_share == pytest.approx(9216 / (864 + 9216 + 2 * 4608 + 32))


def test_linear_layers_and_attention_count():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
            self.mix, self.last = nn.Linear(8, 8), nn.Conv2d(8, 1, 1)

        def forward(self, x):
            tokens = self.mix(self.second(self.first(x)).flatten(2).transpose(1, 2))
            tokens = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            return self.last(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))

    with pytest.warns(UserWarning, match="linear and attention"):
        plan = make_plan(Mixer(), torch.empty(1, 3, 4, 4))
    pixels = 16
    assert plan.other_macs == pixels * 8 * 8 + 2 * pixels * pixels * 8
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.filterwarnings("ignore:.*become one-bit, so that packing gains little")
def test_layers_whose_result_nobody_uses_stay_float():
    """As the deepest stages of an encoder of which PSPNet reads the first three."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
            self.unread, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 1, 1)

        def forward(self, x):
            stages = [self.body(self.stem(x))]
            stages.append(self.unread(stages[0]))
            return {"logits": self.head(stages[0])}

    plan = make_plan(Deep(), torch.empty(1, 3, 32, 32))
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert reasons["unread"].startswith("unused") and plan.quantized[0].name == "body"
