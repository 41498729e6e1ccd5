"""ASPP: the same input seen at several dilation rates (BiSegUNet, Eq. 11; arXiv:1606.00915)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .conv_unit import ConvUnit

RATES = (1, 6, 12, 18)  # Table 1


class ASPP(nn.Module):
    """Parallel dilated 3x3 convolutions, concatenated.

    Args:
        in_channels: channels of the input.
        out_channels: channels of all rates together, a multiple of their number.
        rates: dilations.
    """

    def __init__(self, in_channels: int, out_channels: int, rates: Sequence[int] = RATES):
        super().__init__()
        share = out_channels // len(rates)
        self.rates = nn.ModuleList(ConvUnit(in_channels, share, dilation=rate) for rate in rates)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` -> F_aspp `[N, out_channels, H, W]`."""
        return torch.cat([convolve(x) for convolve in self.rates], dim=1)  # Eq. 11
