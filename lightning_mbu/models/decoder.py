"""The decoder of BiSegUNet (section III.D): fuse what the encoder left, upsample, concatenate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .conv_unit import ConvUnit


class Fusion(nn.Module):
    """H(.) of Eq. 15 and 16: concatenate, convolve.

    Args:
        in_channels: channels of all inputs together.
        out_channels: channels of the result.
        kernel: 3 at the bottleneck, 1 at the skips.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__()
        self.unit = ConvUnit(in_channels, out_channels, kernel)

    def forward(self, *features: Tensor) -> Tensor:
        """Maps `[N, *, H, W]` -> `[N, out_channels, H, W]`."""
        return self.unit(torch.cat(features, dim=1))


class Upsampling(nn.Module):
    """U(.) of Eq. 16: a 3x3 convolution at the low resolution, then every pixel four times.

    Nearest-neighbour upsampling only moves pixels, so it works on bits.

    Args:
        in_channels, out_channels: channels.
        factor: of height and width; 1 leaves the size.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int = 2):
        super().__init__()
        self.unit = ConvUnit(in_channels, out_channels)
        self.upsample = nn.Upsample(scale_factor=factor, mode="nearest") if factor > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` -> `[N, out_channels, factor * H, factor * W]`."""
        return self.upsample(self.unit(x))


class DecoderStage(nn.Module):
    """F_dec^l = U(F_dec^(l+1)) concat H(F_l, F_att^l), Eq. 16.

    Args:
        in_channels: channels of F_dec^(l+1).
        skip_channels: channels of F_l and F_att^l together.
        out_channels: channels of the result; either side yields half of them.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int):
        super().__init__()
        self.upsampling = Upsampling(in_channels, out_channels // 2)
        self.fusion = Fusion(skip_channels, out_channels // 2, kernel=1)

    def forward(self, x: Tensor, *skip: Tensor) -> Tensor:
        """`x [N, in_channels, H, W]`, `skip` maps at 2H x 2W -> `[N, out_channels, 2H, 2W]`."""
        return torch.cat([self.upsampling(x), self.fusion(*skip)], dim=1)
