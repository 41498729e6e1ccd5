"""The networks that `mbu bench` times, ready to run: names, batch-norm statistics, packed twins."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..deploy import PackedModel, convert
from ..model_names import find_model
from ..models import MBUNet
from ..plan import make_plan
from ..prepare import prepare

# Short name -> what `find_model` takes.
MODELS = {
    "mbunet": "lightning_mbu.models:MBUNet",
    "mbunet-shortcuts": "lightning_mbu.bench.models:mbunet_shortcuts",
    "mbunet-int8-stream": "lightning_mbu.bench.models:mbunet_shortcuts",
    "unet-resnet34": "smp:Unet/resnet34",
    "unet-classic": "lightning_mbu.bench.models:ClassicUNet",
}
# Where the one-bit network differs from the float one in more than its layers.
_ONE_BIT = {
    "mbunet-shortcuts": "lightning_mbu.bench.models:mbunet_bfloat16_stream",
    "mbunet-int8-stream": "lightning_mbu.bench.models:mbunet_int8_stream",
}
# Pixels: enough for statistics at the deepest level of a U-Net, and a multiple of every network's stride.
_SETTLING_SIZE = 128


def mbunet_shortcuts(**arguments: Any) -> MBUNet:
    """`MBUNet` with real-valued shortcuts, at full width unless `arguments` say otherwise."""
    return MBUNet(shortcuts=True, **arguments)


def mbunet_bfloat16_stream(**arguments: Any) -> MBUNet:
    """The same with a residual stream in bfloat16, which takes half the memory traffic."""
    return MBUNet(shortcuts=True, stream_dtype="bfloat16", **arguments)


def mbunet_int8_stream(**arguments: Any) -> MBUNet:
    """The same with a residual stream in int8: a quarter."""
    return MBUNet(shortcuts=True, stream_dtype="int8", **arguments)


def _double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class ClassicUNet(nn.Module):
    """The U-Net most people mean: five levels of two 3x3 convolutions, 31 M parameters at width 64.

    References: arXiv:1505.04597, with padded convolutions and batch norms.
    """

    def __init__(self, in_channels: int = 3, classes: int = 1, width: int = 64, levels: int = 5):
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.encoder = nn.ModuleList(
            _double_conv(before, after)
            for before, after in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.decoder = nn.ModuleList(_double_conv(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Image `[N, in_channels, H, W]`, H and W multiples of `2**(levels - 1)` -> logits `[N, classes, H, W]`."""
        skips = []
        for block in self.encoder:
            x = block(self.pool(x) if skips else x)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)


@torch.no_grad()
def settle(model: nn.Module, channels: int) -> nn.Module:
    """Gives the batch norms of `model` the statistics of random images, in place; returns it in evaluation mode.

    A fresh network's signal fades from layer to layer until the bias of its head is all that is left: every
    candidate would then agree with every other whatever it computed, and bits would be constant, which some
    processors run faster.

    Args:
        model: takes `[N, channels, 128, 128]`.
        channels: of the images.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    model(torch.randn(2, channels, _SETTLING_SIZE, _SETTLING_SIZE))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return model.eval()


def network_of(name: str, arguments: dict[str, Any] | None = None, one_bit: bool = False) -> nn.Module:
    """A fresh network.

    Args:
        name: a key of `MODELS`, or what `find_model` takes.
        arguments: of the model.
        one_bit: the architecture that is to become one-bit, which may differ in how it stores its stream.
    """
    of_one_bit = _ONE_BIT.get(name) if one_bit else None
    return find_model(of_one_bit or MODELS.get(name, name), arguments)


def float_model(name: str, channels: int, arguments: dict[str, Any] | None = None) -> nn.Module:
    """The float network, the same for every call.

    Args:
        name: a key of `MODELS`, or what `find_model` takes.
        channels: of the input images.
        arguments: of the model.
    """
    torch.manual_seed(0)
    return settle(network_of(name, arguments), channels)


def twins(
    name: str, channels: int, planes: int = 1, arguments: dict[str, Any] | None = None, **blocks: Any
) -> tuple[nn.Module, nn.Module, PackedModel]:
    """The float network, its one-bit twin as training would leave it, and the packed twin.

    Args:
        name, channels, arguments: see `float_model`.
        planes: thresholds per channel.
        blocks: `mask_blocks` and `block_density` of `prepare`; with them every layer is masked.
    """
    model = float_model(name, channels, arguments)
    example = torch.randn(1, channels, _SETTLING_SIZE, _SETTLING_SIZE)
    one_bit = copy.deepcopy(model)
    if name in _ONE_BIT:
        one_bit = network_of(name, arguments, one_bit=True)
        one_bit.load_state_dict(model.state_dict())
    masked: dict[str, Any] = {"masked": "all"} if blocks.get("mask_blocks") else {}
    plan = make_plan(one_bit, example, planes=planes, **masked)
    one_bit = settle(prepare(one_bit, plan, **blocks), channels)
    return model, one_bit, convert(one_bit, example)
