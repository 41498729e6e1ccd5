import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from lightning_mbu import convert, verify
from lightning_mbu.deploy.convert import pack_layers
from lightning_mbu.deploy.graph import CONVOLUTIONS, FUSED_CONVOLUTIONS, STREAM_CONVOLUTIONS, is_call
from lightning_mbu.models import MBUNet

NETWORKS = {
    "plain": lambda: MBUNet(width=8),
    "odd width, two classes": lambda: MBUNet(width=20, classes=2),
    "shortcuts": lambda: MBUNet(width=8, shortcuts=True),
    "resnet34": lambda: smp.Unet("resnet34", encoder_weights=None),
    "mobilenet_v2": lambda: smp.Unet("mobilenet_v2", encoder_weights=None),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "unfused"])
def test_packed_network_computes_the_trained_networks_bits(name, fuse, quantized):
    model = quantized(NETWORKS[name]())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    packed = convert(model, torch.randn(1, 3, 64, 64), fuse=fuse)
    for shape in ((1, 3, 64, 64), (3, 3, 32, 96)):
        result = verify(model, packed, torch.randn(shape))
        assert result.ok and result.mismatches == 0 and result.at_rounding == 0, str(result)
        assert result.output_difference < 1e-4
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_every_activation_between_quantized_layers_is_bits(quantized):
    packed = convert(quantized(MBUNet(width=8)), torch.randn(1, 3, 32, 32))
    calls = [node for node in packed.graph_module.graph.nodes if node.op == "call_function"]
    assert sum(is_call(node, *FUSED_CONVOLUTIONS) for node in calls) == 20
    streams = sum(is_call(node, *CONVOLUTIONS, *STREAM_CONVOLUTIONS) for node in calls)
    assert streams == 1, "only the layer before the float head yields floats"
    assert sum(is_call(node, torch.ops.mbu.stem_threshold.default) for node in calls) == 1
    assert not any(is_call(node, torch.ops.mbu.pack.default) for node in calls), "no float map is stored"
    assert not any(is_call(node, torch.ops.aten.batch_norm.default) for node in calls)


class Pieces(nn.Module):
    """Patterns around one quantized layer: in -> conv -> norm -> `between` -> conv -> conv -> out."""

    def __init__(self, between, channels=16, bias=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.norm = nn.Conv2d(16, 16, 3, padding=1, bias=bias), nn.BatchNorm2d(16)
        self.between = between
        self.b = nn.Conv2d(channels, 12, 5, padding=4, dilation=2, stride=2)
        self.c = nn.ConvTranspose2d(12, 10, 4, stride=2, padding=1)
        self.head = nn.Conv2d(10, 1, 1)

    def forward(self, x):
        return self.head(self.c(self.b(self.between(self.norm(self.a(self.stem(x)))))))


class Between(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


PATTERNS = {
    "max-pool": (nn.MaxPool2d(3, 2, 1), 16),
    "max-pool, ceil": (nn.MaxPool2d(2, ceil_mode=True), 16),
    "nearest": (nn.Upsample(scale_factor=2), 16),
    "nearest to a size": (Between(lambda x: nn.functional.interpolate(x, size=(13, 7))), 16),
    "concat": (Between(lambda x: torch.cat([x, x.relu(), nn.functional.max_pool2d(x, 3, 1, 1)], 1)), 48),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), 16),
    "average pool": (nn.AvgPool2d(2), 16),
    "in-place relu": (nn.ReLU(inplace=True), 16),
    "relu6": (nn.ReLU6(), 16),
    "gelu": (nn.GELU(), 16),
    "silu, in place": (nn.SiLU(inplace=True), 16),
    "hardswish": (nn.Hardswish(), 16),
    "dropout": (nn.Dropout2d(0.5), 16),
    "affine": (Between(lambda x: 2 - (x * -0.37 + 0.11) / 3), 16),
    "residual": (Between(lambda x: x + x.roll(1, 2)), 16),
    "pad": (nn.ZeroPad2d(2), 16),
    "crop": (Between(lambda x: x[:, :, 1:-1, 2:]), 16),
    "pixel shuffle": (nn.PixelShuffle(2), 4),
    "two norms": (nn.BatchNorm2d(16), 16),
    "group norm": (nn.GroupNorm(4, 16), 16),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_stay_exact(name, quantized):
    between, channels = PATTERNS[name]
    model = quantized(Pieces(between, channels), size=24, min_channels=4, masked=0.5)
    packed = convert(model, torch.randn(2, 3, 24, 24))
    result = verify(model, packed, torch.randn(2, 3, 24, 24))
    assert result.mismatches == 0 and result.at_rounding == 0, str(result)


FUSABLE = [
    "max-pool",
    "max-pool, ceil",
    "nearest",
    "nearest to a size",
    "concat",
    "in-place relu",
    "relu6",
    "dropout",
    "affine",
    "two norms",
]


@pytest.mark.parametrize("name", FUSABLE)
def test_known_patterns_leave_no_float_between_layers(name, quantized):
    between, channels = PATTERNS[name]
    packed = convert(quantized(Pieces(between, channels), size=24, min_channels=4), torch.randn(2, 3, 24, 24))
    assert [layer.name for layer in packed.layers if layer.fused] == ["a", "b"]


def test_readers_with_different_thresholds_get_planes_of_one_convolution(quantized):
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.norm = (
                nn.Conv2d(3, 16, 1),
                nn.Conv2d(16, 40, 3, padding=1),
                nn.BatchNorm2d(40),
            )
            self.b, self.c, self.d = (nn.Conv2d(40, 8, 1) for _ in range(3))
            self.head = nn.Conv2d(24, 1, 1)

        def forward(self, x):
            y = self.norm(self.a(self.stem(x)))
            return self.head(torch.cat([self.b(y), self.c(y), self.d(y)], 1))

    model = quantized(Fork(), thresholds="learned")
    with torch.no_grad():
        model.c.threshold.copy_(model.b.threshold)
    packed = convert(model, torch.randn(1, 3, 32, 32))
    (fused,) = [n for n in packed.graph_module.graph.nodes if is_call(n, *FUSED_CONVOLUTIONS)]
    assert fused.meta["segments"] == (40, 40), "two different thresholds, two planes"
    result = verify(model, packed, torch.randn(2, 3, 32, 32))
    assert result.ok and not result.at_rounding


def test_module_used_twice(quantized):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.head = (
                nn.Conv2d(3, 16, 3, padding=1),
                nn.Conv2d(16, 16, 3, padding=1),
                nn.Conv2d(16, 1, 1),
            )

        def forward(self, x):
            return self.head(self.a(self.a(self.stem(x))))

    model = quantized(Twice())
    packed = convert(model, torch.randn(1, 3, 32, 32))
    result = verify(model, packed, torch.randn(1, 3, 32, 32))
    assert len(result.layers) == 2 and result.ok


@torch.no_grad()
def test_packed_layers_work_without_rewriting(quantized):
    model, x = quantized(MBUNet(width=8)), torch.randn(2, 3, 32, 32)
    assert torch.allclose(pack_layers(model)(x), model(x), atol=1e-5)


@torch.no_grad()
def test_compiled_packed_model_agrees_at_several_sizes(quantized):
    model = quantized(MBUNet(width=8))
    packed = convert(model, torch.randn(1, 3, 32, 32))
    compiled = torch.compile(packed, fullgraph=True, dynamic=True)
    for shape in ((1, 3, 32, 32), (2, 3, 48, 64)):
        x = torch.randn(shape)
        assert torch.allclose(compiled(x), packed(x), atol=1e-5)
        assert torch.allclose(compiled(x.to(memory_format=torch.channels_last)), packed(x), atol=1e-5)
    assert packed(torch.empty(0, 3, 32, 32)).shape == (0, 1, 32, 32)


def test_bad_models_and_inputs(quantized):
    x = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="no masked-binary layers"):
        convert(MBUNet(width=8), x)
    model = quantized(MBUNet(width=8))
    model.up1.transpose.gate.fill_(0.4)
    with pytest.raises(ValueError, match=r"not fully quantized yet: up1.transpose \(gate 0.4\)"):
        convert(model, x)
    model.up1.transpose.gate.fill_(1)
    with pytest.raises(ValueError, match=r"cannot be exported with an input of shape \(1, 5, 32, 32\)"):
        convert(model, torch.randn(1, 5, 32, 32))
    with pytest.raises(TypeError, match="give a float32 tensor"):
        convert(model, x.double())
    with torch.no_grad():
        model.down1.norm1.running_mean[0] = torch.nan
    with pytest.raises(ValueError, match="'down1.norm1.running_mean' has NaN"):
        convert(model, x)


def test_packed_model_checks_its_input(quantized):
    packed = convert(quantized(MBUNet(width=8)), torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="Pad the images to 48x32"):
        packed(torch.randn(1, 3, 40, 32))
    with pytest.raises(ValueError, match=r"takes \[N, 3, H, W\]"):
        packed(torch.randn(1, 4, 32, 32))
    with pytest.raises(TypeError, match="Use x.float"):
        packed(torch.randn(1, 3, 32, 32).double())
    with pytest.raises(ValueError, match="on meta and the model on cpu"):
        packed(torch.empty(1, 3, 32, 32, device="meta"))
    assert "21 packed convolutions, 20 of them" in repr(packed)


def test_verify_finds_a_wrong_bit_and_a_wrong_model(quantized):
    model = quantized(MBUNet(width=8))
    packed = convert(model, torch.randn(1, 3, 32, 32))
    with torch.no_grad():
        packed.graph_module.tau += 3
    result = verify(model, packed, torch.randn(1, 3, 32, 32))
    assert not result.ok and result.mismatches > 0 and "WRONG" in str(result)
    with pytest.raises(ValueError, match="differ in their layers"):
        verify(
            quantized(smp.Unet("resnet34", encoder_weights=None), size=64), packed, torch.randn(1, 3, 32, 32)
        )
