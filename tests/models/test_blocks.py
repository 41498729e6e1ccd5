"""Every block of BiSegUNet against its equation, written with einsum and sums."""

import math

import pytest
import torch
from torch import nn

from lightning_mbu.models.aspp import ASPP
from lightning_mbu.models.attention import ANP, CBAM, ChannelAttention
from lightning_mbu.models.capacity_block import CapacityBlock, MultiScaleBlock
from lightning_mbu.models.conv_unit import ConvUnit
from lightning_mbu.models.decoder import DecoderStage, Fusion, Upsampling
from lightning_mbu.models.gateway import MultiStreamGateway


def convolve(x, weight, dilation=1, groups=1):
    """Eq. 5 with its sum written out: taps times shifted images, zero outside."""
    pad = dilation * (weight.shape[-1] // 2)
    padded = nn.functional.pad(x, [pad] * 4)
    height, width = x.shape[2:]
    maps = []
    for image, kernels in zip(padded.chunk(groups, 1), weight.chunk(groups), strict=True):
        taps = [
            torch.einsum(
                "nchw,oc->nohw",
                image[:, :, i * dilation : i * dilation + height, j * dilation : j * dilation + width],
                kernels[:, :, i, j],
            )
            for i in range(weight.shape[-2])
            for j in range(weight.shape[-1])
        ]
        maps.append(sum(taps))
    return torch.cat(maps, dim=1)


def unit(module: ConvUnit, x):
    conv, norm = module.conv, module.norm
    y = convolve(x, conv.weight, conv.dilation[0], conv.groups)
    mean, variance = (v[:, None, None] for v in (norm.running_mean, norm.running_var))
    y = (y - mean) / torch.sqrt(variance + norm.eps) * norm.weight[:, None, None] + norm.bias[:, None, None]
    return y.clamp_min(0)


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
    assert MultiStreamGateway(1, 8, stride=2)(torch.randn(1, 1, 16, 32)).shape == (1, 8, 8, 16)


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
    unit = settled(ConvUnit(16, 32, stride=2))
    plain = unit.norm(unit.conv(image))
    torch.testing.assert_close(unit(image), torch.relu(plain))
    unit.shortcut = unit.can_have_shortcut
    largest = image.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    torch.testing.assert_close(unit(image), torch.relu(plain + torch.cat([largest, largest], 1)))
    unit = settled(ConvUnit(16, 4))
    unit.shortcut = unit.can_have_shortcut
    expected = unit.norm(unit.conv(image)) + image.view(len(image), 4, 4, *image.shape[2:]).mean(1)
    torch.testing.assert_close(unit(image), torch.relu(expected))
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
