"""What real segmentation networks are made of besides convolutions: each converts exactly, or says why not."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from lightning_mbu import convert, load, make_plan, prepare, save, verify
from lightning_mbu.layers import quantize_layer
from lightning_mbu.prepare import quantized_layers


def unet(**options) -> nn.Module:
    """Small enough for a second or two: three levels of resnet18."""
    settings = {"encoder_depth": 3, "decoder_channels": (32, 16, 16), "encoder_weights": None}
    return smp.Unet("resnet18", **{**settings, **options})


class Block(nn.Module):
    """Convolution, norm, activation; the activation is called by every test's choice."""

    def __init__(self, inputs: int, outputs: int, activation: nn.Module, norm=nn.BatchNorm2d, **options):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=options.pop("padding", 1), **options)
        self.norm, self.activation = norm(outputs), activation

    def forward(self, x):
        return self.activation(self.norm(self.conv(x)))


class ActivatedNorm(nn.BatchNorm2d):
    """Norm and activation in one, in place, as `InPlaceABN` of smp's `decoder_use_norm="inplace"` has them."""

    def forward(self, x):
        return nn.functional.leaky_relu_(super().forward(x), 0.01)


class OwnUNet(nn.Module):
    """A user's own U-Net, with the pieces that tests exchange."""

    def __init__(self, activation=nn.ReLU, up=None, norm=nn.BatchNorm2d, shared: bool = False, **conv):
        super().__init__()
        self.stem = Block(3, 16, activation(), norm)
        self.down = Block(16, 16, activation(), norm, **conv)
        self.deep = self.down if shared else Block(16, 16, activation(), norm)
        self.pool = nn.MaxPool2d(2)
        self.up = up or nn.Upsample(scale_factor=2)
        self.join = Block(32, 16, activation(), norm)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        a = self.stem(x)
        b = self.deep(self.pool(self.down(a)))
        return self.head(self.join(torch.cat([self.up(b), a], 1)))


NETWORKS = {
    "no norm": lambda: unet(decoder_use_norm=False),
    "instance norm": lambda: unet(decoder_use_norm={"type": "instancenorm", "affine": True}),
    "layer norm": lambda: OwnUNet(norm=lambda n: nn.GroupNorm(1, n)),
    "identity norm": lambda: unet(decoder_use_norm="identity"),
    "scse attention": lambda: unet(decoder_attention_type="scse"),
    "bilinear": lambda: unet(decoder_interpolation="bilinear"),
    "auxiliary head": lambda: unet(aux_params={"classes": 4, "dropout": 0.1}),
    "norm and activation in one": lambda: OwnUNet(nn.Identity, norm=ActivatedNorm),
    "no norm, scse attention": lambda: unet(decoder_use_norm=False, decoder_attention_type="scse"),
    "four channels in, sigmoid out": lambda: unet(in_channels=4, classes=3, activation="sigmoid"),
    "ReLU in place": lambda: OwnUNet(lambda: nn.ReLU(inplace=True)),
    "LeakyReLU": lambda: OwnUNet(nn.LeakyReLU),
    "PReLU": lambda: OwnUNet(nn.PReLU),
    "ELU": lambda: OwnUNet(nn.ELU),
    "SiLU": lambda: OwnUNet(lambda: nn.SiLU(inplace=True)),
    "GELU": lambda: OwnUNet(nn.GELU),
    "Hardswish": lambda: OwnUNet(lambda: nn.Hardswish(inplace=True)),
    "Mish": lambda: OwnUNet(nn.Mish),
    "group norm": lambda: OwnUNet(norm=lambda n: nn.GroupNorm(4, n)),
    "transposed": lambda: OwnUNet(up=nn.ConvTranspose2d(16, 16, 2, stride=2)),
    "transposed, overlapping": lambda: OwnUNet(up=nn.ConvTranspose2d(16, 16, 3, stride=2, padding=1, output_padding=1)),
    "bicubic": lambda: OwnUNet(up=nn.Upsample(scale_factor=2, mode="bicubic", align_corners=False)),
    "pixel shuffle": lambda: OwnUNet(up=nn.Sequential(nn.Conv2d(16, 64, 1), nn.PixelShuffle(2))),
    "dilated": lambda: OwnUNet(dilation=2, padding=2),
    "grouped": lambda: OwnUNet(groups=4),
    "reflecting padding": lambda: OwnUNet(padding_mode="reflect"),
    "padding by name": lambda: OwnUNet(padding="same"),
    "block used twice": lambda: OwnUNet(shared=True),
}  # fmt: skip


def randomize(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 2)
                module.running_var.uniform_(0.5, 20)
                module.weight.normal_()
        for _, layer in quantized_layers(model):
            if layer.learns_threshold:
                layer.threshold.normal_(0, 0.3)
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_piece_converts_exactly(name, tmp_path):
    model = NETWORKS[name]()
    channels = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels
    images = torch.randn(2, channels, 32, 32)
    prepare(model, make_plan(model, images))
    model.train()
    outputs = model(images)
    sum(y.mean() for y in (outputs if isinstance(outputs, tuple) else [outputs])).backward()
    assert all(layer.weight.grad.abs().sum() > 0 for _, layer in quantized_layers(model))
    randomize(model)
    packed = convert(model, images)
    result = verify(model, packed, images)
    assert result.mismatches == 0 and result.at_rounding == 0, str(result)
    other = torch.randn(1, channels, 48, 64)
    loaded = load(save(packed, tmp_path / "net.mbu"))
    with torch.no_grad():
        for found, expected in zip(_all(loaded(other)), _all(model(other)), strict=True):
            assert torch.allclose(found, expected, atol=1e-4)


def _all(output):
    return output if isinstance(output, tuple) else (output,)


def test_a_weight_that_two_layers_share():
    model = OwnUNet()
    model.deep.conv.weight = model.down.conv.weight
    images = torch.randn(2, 3, 32, 32)
    prepare(model, make_plan(model, images))
    assert model.deep.conv.weight is model.down.conv.weight
    model(images).mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    packed = convert(randomize(model), images)
    assert verify(model, packed, images).mismatches == 0
    first, second = (layer for layer in packed.layers if layer.name in ("down.conv", "deep.conv"))
    assert torch.equal(packed.weight(first), packed.weight(second))


def _compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def _compiled_in_part(model: nn.Module) -> nn.Module:
    model.join = torch.compile(model.join, backend="eager")
    return model


@pytest.mark.parametrize(
    "wrap",
    [lambda m: torch.compile(m, backend="eager"), _compiled_in_place, _compiled_in_part],
    ids=["wrapped", "in place", "in part"],
)
def test_a_model_that_is_compiled_already(wrap):
    model = wrap(OwnUNet().eval())
    images = torch.randn(2, 3, 32, 32)
    plan = make_plan(model, images)
    assert len(plan.quantized) == 3
    assert prepare(model, plan) is model
    packed = convert(model, images)
    assert verify(model, packed, images).mismatches == 0
    with torch.no_grad():
        assert torch.allclose(packed(images), model(images), atol=1e-5)


def test_channels_last_computes_the_same():
    model = OwnUNet()
    images = torch.randn(2, 3, 32, 32)
    prepare(model, make_plan(model, images))
    randomize(model.to(memory_format=torch.channels_last))
    packed = convert(model, images)
    last = images.to(memory_format=torch.channels_last)
    assert verify(model, packed, last).mismatches == 0
    assert torch.equal(packed(images), packed(last))


def test_what_smp_cannot_run_itself_is_said():
    with pytest.raises(ValueError, match="does not run on an example input.*normalized_shape"):
        make_plan(unet(decoder_use_norm="layernorm"), torch.empty(1, 3, 32, 32))


def test_subclassed_convolutions_are_judged_by_what_they_compute():
    class Renamed(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight, self.bias)

    class Standardized(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

    model = OwnUNet()
    model.down.conv, model.deep.conv = Renamed(16, 16, 3, padding=1), Standardized(16, 16, 3, padding=1)
    images = torch.randn(1, 3, 32, 32)
    plan = make_plan(model, images)
    assert [x.name for x in plan.quantized] == ["down.conv", "join.conv"]
    reason = next(x.reason for x in plan.layers if x.name == "deep.conv")
    assert reason == "Standardized computes more than a convolution"
    randomize(prepare(model, plan))
    assert verify(model, convert(model, images), images).ok
    with pytest.raises(TypeError, match="Standardized cannot be quantized"):
        quantize_layer(model.deep.conv, "binary")


def test_sizes_that_the_stride_does_not_divide():
    class Cropping(OwnUNet):
        def forward(self, x):
            a = self.stem(x)
            b = self.up(self.deep(self.pool(self.down(a))))
            b = nn.functional.interpolate(b, size=a.shape[2:])
            return self.head(self.join(torch.cat([b, a], 1)))

    images = torch.randn(1, 3, 32, 32)
    model = Cropping()
    randomize(prepare(model, make_plan(model, images)))
    packed = convert(model, images)
    odd = torch.randn(1, 3, 37, 51)
    assert verify(model, packed, odd).ok
    assert torch.allclose(packed(odd), model(odd), atol=1e-5)


def test_sizes_that_fit_by_rounding_down_are_no_proof():
    """65 pixels halve to 32 and go on; 67 to 33, whose half does not come back."""

    class Halved(OwnUNet):
        def __init__(self):
            super().__init__()
            self.stem = Block(3, 16, nn.ReLU(), kernel_size=2, stride=2, padding=0)

    class Block(nn.Sequential):
        def __init__(self, inputs, outputs, activation, **conv):
            super().__init__(nn.Conv2d(inputs, outputs, **conv), nn.BatchNorm2d(outputs), activation)

    images = torch.randn(1, 3, 64, 64)
    model = Halved()
    packed = convert(prepare(model, make_plan(model, images)).eval(), images)
    assert packed.input_spec.multiple == 4
    with pytest.raises(ValueError, match="67x67; height and width must be multiples of 4"):
        packed(torch.zeros(1, 3, 67, 67))
