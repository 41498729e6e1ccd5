"""Every block of BiSegUNet against its equation, written with einsum and sums."""

import math

import pytest
import torch
from torch import nn

from lightning_mbu.models import BiSegUNet
from lightning_mbu.models.aspp import ASPP
from lightning_mbu.models.attention import ANP, CBAM, ChannelAttention
from lightning_mbu.models.capacity_block import CapacityBlock, MultiScaleBlock
from lightning_mbu.models.conv_unit import ConvUnit
from lightning_mbu.models.decoder import DecoderStage, Fusion, Upsampling
from lightning_mbu.models.gateway import MultiStreamGateway


def convolve(x, weight, dilation=1, groups=1, stride=1):
    """Eq. 5 with its sum written out: taps times shifted images, zero outside, every `stride`-th pixel."""
    pad = dilation * (weight.shape[-1] // 2)
    padded = nn.functional.pad(x, [pad] * 4)
    height, width = x.shape[2:]
    maps = []
    for image, kernels in zip(padded.chunk(groups, 1), weight.chunk(groups), strict=True):
        taps = [
            torch.einsum(
                "nchw,oc->nohw",
                image[:, :, i * dilation :, j * dilation :][:, :, :height:stride, :width:stride],
                kernels[:, :, i, j],
            )
            for i in range(weight.shape[-2])
            for j in range(weight.shape[-1])
        ]
        maps.append(sum(taps))
    return torch.cat(maps, dim=1)


def normalised(norm: nn.BatchNorm2d, y):
    mean, variance = (v[:, None, None] for v in (norm.running_mean, norm.running_var))
    return (y - mean) / torch.sqrt(variance + norm.eps) * norm.weight[:, None, None] + norm.bias[
        :, None, None
    ]


def unit(module: ConvUnit, x, shortcut=0):
    conv = module.conv
    y = convolve(x, conv.weight, conv.dilation[0], conv.groups, conv.stride[0])
    return (normalised(module.norm, y) + shortcut).clamp_min(0)  # Eq. 21


def channel_attention(module: ChannelAttention, x):
    z = torch.einsum("nchw->nc", x) / (x.shape[2] * x.shape[3])  # Eq. 8
    hidden = (torch.einsum("nc,hc->nh", z, module.reduce.weight) + module.reduce.bias).clamp_min(0)
    w = 1 / (1 + torch.exp(-torch.einsum("nh,ch->nc", hidden, module.expand.weight) - module.expand.bias))
    return torch.einsum("nc,nchw->nchw", w, x)  # Eq. 10


def cbam(module: CBAM, x):
    weights = torch.sigmoid(module.mlp(x.mean((2, 3))) + module.mlp(x.amax((2, 3))))
    x = torch.einsum("nc,nchw->nchw", weights, x)
    pooled = torch.stack([x.mean(1), x.amax(1)], 1)
    return torch.sigmoid(convolve(pooled, module.spatial.weight)) * x


def settled(module: nn.Module) -> nn.Module:
    """In double precision, in evaluation mode, with batch norms that do something."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low in (
                (norm.running_mean, -1),
                (norm.running_var, 0.5),
                (norm.weight, -1),
                (norm.bias, 0),
            ):
                nn.init.uniform_(tensor, low, 2)
    return module.double().eval()


@pytest.fixture
def image():
    return torch.randn(2, 16, 10, 12, dtype=torch.float64)


def test_gateway_concatenates_streams():
    gateway = settled(MultiStreamGateway(3, 16))
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    torch.testing.assert_close(gateway(x), torch.cat([unit(s, x) for s in gateway.streams], 1))
    assert [s.conv.out_channels for s in gateway.streams] == [4, 4, 8]


def test_gateway_halves_the_image():
    gateway = settled(MultiStreamGateway(1, 8, stride=2))
    x = torch.randn(2, 1, 16, 31, dtype=torch.float64)
    expected = torch.cat([unit(s, x) for s in gateway.streams], 1)
    assert expected.shape == (2, 8, 8, 16)
    torch.testing.assert_close(gateway(x), expected)


def test_encoder_follows_equation_2(image):
    model = settled(BiSegUNet(width=16, classes=2))
    f = image
    for encoder in (model.encoder1, model.encoder2, model.encoder3, model.encoder4):
        expected = unit(encoder, f)
        assert expected.shape == (2, 2 * f.shape[1], -(-f.shape[2] // 2), -(-f.shape[3] // 2))
        torch.testing.assert_close(encoder(f), expected)
        f = expected


def test_fusion_follows_equation_15(image):
    fusion = settled(BiSegUNet(width=16, classes=2).bottom)
    a, b = torch.randn(2, fusion.unit.conv.in_channels, 6, 7, dtype=torch.float64).split([128, 256], 1)
    # A convolution of concatenated maps is the sum of theirs.
    parts = [
        convolve(x, w) for x, w in zip((a, b), fusion.unit.conv.weight.split([128, 256], 1), strict=True)
    ]
    torch.testing.assert_close(fusion(a, b), normalised(fusion.unit.norm, sum(parts)).clamp_min(0))
    assert fusion.unit.conv.kernel_size == (3, 3)


def test_capacity_block_follows_equations_3_to_10(image):
    block = settled(CapacityBlock(16, groups=2))
    b1 = unit(block.binary1, unit(block.binary2, image))
    f_cap = torch.cat([b1, *(unit(m, image) for m in (block.binary3, block.dilated, block.grouped))], 1)
    torch.testing.assert_close(block(image), channel_attention(block.attention, f_cap))
    assert block.dilated.conv.kernel_size == (7, 7) and block.dilated.conv.dilation == (2, 2)
    assert block.grouped.conv.groups == 2


@pytest.mark.parametrize(
    "branches, channels", [(("binary",), 8), (("dilated", "grouped"), 8), (("binary", "grouped"), 12)]
)
def test_capacity_block_without_a_branch(branches, channels, image):
    block = CapacityBlock(16, branches, groups=2, attention=False).double()
    assert block.out_channels == channels and block(image).shape == (2, channels, 10, 12)
    assert not [
        n for n, _ in block.named_parameters() if n.startswith("dilated") and "dilated" not in branches
    ]


def test_channel_attention_moves_bits_behind_a_learned_threshold_only(image):
    features = image.abs()
    attended = ChannelAttention(16).double()(features)
    assert torch.equal(attended >= 0, features >= 0), "a threshold of zero does not see positive weights"
    assert not torch.equal(attended >= 0.5, features >= 0.5)


def test_cbam_weighs_channels_then_pixels(image):
    attention = CBAM(16).double()
    torch.testing.assert_close(attention(image), cbam(attention, image))


@pytest.mark.parametrize("name, attend", [("se", channel_attention), ("cbam", cbam)])
def test_multi_scale_block_attends_to_rates(name, attend, image):
    block = settled(MultiScaleBlock(16, name))
    rates = torch.cat([unit(rate, image) for rate in block.aspp.rates], 1)
    torch.testing.assert_close(block(image), attend(block.attention, rates))
    assert block.out_channels == rates.shape[1] == 16


def test_aspp_concatenates_rates(image):
    aspp = settled(ASPP(16, 8))
    torch.testing.assert_close(aspp(image), torch.cat([unit(rate, image) for rate in aspp.rates], 1))
    assert [rate.conv.dilation[0] for rate in aspp.rates] == [1, 6, 12, 18]


def test_shortcut_is_added_in_front_of_the_relu(image):
    growing, shrinking = settled(ConvUnit(16, 32, stride=2)), settled(ConvUnit(16, 4))
    torch.testing.assert_close(growing(image), unit(growing, image))
    growing.shortcut, shrinking.shortcut = growing.can_have_shortcut, shrinking.can_have_shortcut
    largest = image.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    copies = torch.eye(16, dtype=torch.float64).repeat(2, 1)  # output channel o reads input channel o mod 16
    expected = unit(growing, image, torch.einsum("oc,nchw->nohw", copies, largest))
    torch.testing.assert_close(growing(image), expected)
    means = (
        torch.eye(4, dtype=torch.float64).repeat(1, 4) / 4
    )  # the mean of input channels o, o + 4, o + 8, o + 12
    expected = unit(shrinking, image, torch.einsum("oc,nchw->nohw", means, image))
    torch.testing.assert_close(shrinking(image), expected)
    assert not ConvUnit(16, 6).can_have_shortcut


def test_anp_is_self_attention(image):
    anp = ANP(16, 4, 8).double()
    f = image.flatten(2).transpose(1, 2)
    q, k, v = (torch.einsum("npc,dc->npd", f, m.weight) for m in (anp.query, anp.key, anp.value))
    scores = torch.einsum("npd,nqd->npq", q, k) / math.sqrt(4)
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    attended = torch.einsum("npq,nqd->npd", weights / weights.sum(-1, keepdim=True), v)
    torch.testing.assert_close(anp(image), attended.transpose(1, 2).reshape(2, 8, 10, 12))


def test_decoder_stage_upsamples_fuses_and_concatenates(image):
    stage = settled(DecoderStage(16, 24, 12))
    f, attended = (torch.randn(2, 12, 20, 24, dtype=torch.float64) for _ in range(2))
    low = unit(stage.upsampling.unit, image)
    high = low.repeat_interleave(2, 2).repeat_interleave(2, 3)
    fused = unit(stage.fusion.unit, torch.cat([f, attended], 1))
    torch.testing.assert_close(stage(image, f, attended), torch.cat([high, fused], 1))


BLOCKS = {
    "unit": lambda: ConvUnit(16, 8, stride=2),
    "gateway": lambda: MultiStreamGateway(16, 8),
    "capacity": lambda: CapacityBlock(16),
    "capacity without attention": lambda: CapacityBlock(16, attention=False),
    "se": lambda: MultiScaleBlock(16, "se"),
    "cbam": lambda: MultiScaleBlock(16, "cbam"),
    "aspp": lambda: ASPP(16, 8),
    "anp": lambda: ANP(16, 4, 8),
    "fusion": lambda: Fusion(16, 8, 3),
    "upsampling": lambda: Upsampling(16, 8, 4),
    "decoder stage": lambda: DecoderStage(16, 24, 12),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_reach_every_input_and_parameter(name, image):
    block = BLOCKS[name]().double()
    skips = 2 if name == "decoder stage" else 0
    inputs = [image, *torch.randn(skips, 2, 12, 20, 24, dtype=torch.float64)]
    for x in inputs:
        x.requires_grad_()
    y = block(*inputs)
    (y * torch.randn_like(y)).sum().backward()
    for label, tensor in [*enumerate(inputs), *block.named_parameters()]:
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0, label
        assert torch.isfinite(tensor.grad).all(), label
