"""CapacityBlock: refines what the encoder hands to the decoder (BiSegUNet, section III.C, figure 3).

             +- B_2 3x3 -- B_1 3x3 -+
    F_enc ---+- B_3 3x3 ------------+- concat -- channel attention -- F_att
             +- D   7x7, dilated 2 -+
             +- G   3x3, grouped ---+

Each path yields a quarter of the channels, so that the block keeps their number (Table 1). D is grouped as G is:
ungrouped, its 7x7 kernel would be most of the network, and Table 8 gives it less than the binary branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .aspp import ASPP
from .attention import CBAM, ChannelAttention
from .conv_unit import ConvUnit

BRANCHES = ("binary", "dilated", "grouped")
ATTENTIONS = ("capacity", "none", "se", "cbam")


class CapacityBlock(nn.Module):
    """The block of the paper, or one with parts left out.

    Args:
        channels: channels of F_enc, a multiple of 4 and of 4 * groups.
        branches: which of `BRANCHES` it has (Table 8); without one the result has fewer channels.
        groups: groups of the dilated and of the grouped convolution.
        attention: reweigh the channels at the end (figure 8c) or not (8b).
        reduction: see `ChannelAttention`.

    Attributes:
        out_channels: channels of F_att.
    """

    def __init__(
        self,
        channels: int,
        branches: Sequence[str] = BRANCHES,
        groups: int = 4,
        attention: bool = True,
        reduction: int = 4,
    ):
        super().__init__()
        share = channels // 4
        self.binary1 = self.binary2 = self.binary3 = self.dilated = self.grouped = None
        if "binary" in branches:
            self.binary2 = ConvUnit(channels, share)
            self.binary1 = ConvUnit(share, share)
            self.binary3 = ConvUnit(channels, share)
        if "dilated" in branches:
            self.dilated = ConvUnit(channels, share, 7, dilation=2, groups=groups)
        if "grouped" in branches:
            self.grouped = ConvUnit(channels, share, groups=groups)
        self.out_channels = share * (len(branches) + ("binary" in branches))
        self.attention = ChannelAttention(self.out_channels, reduction) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """F_enc `[N, channels, H, W]` -> F_att `[N, out_channels, H, W]`."""
        paths = []
        if self.binary1 is not None and self.binary2 is not None and self.binary3 is not None:
            paths += [self.binary1(self.binary2(x)), self.binary3(x)]  # Eq. 3
        if self.dilated is not None:
            paths.append(self.dilated(x))  # Eq. 4 and 5
        if self.grouped is not None:
            paths.append(self.grouped(x))  # Eq. 6
        return self.attention(torch.cat(paths, dim=1))  # Eq. 7, then 8-10


class MultiScaleBlock(nn.Module):
    """What Table 7 puts in the place of a capacity block: ASPP with SE (arXiv:1709.01507) or CBAM behind it.

    SE is the very formula of Eq. 8-10, so the variant differs from the paper's block in its branches.

    Args:
        channels: channels of F_enc, a multiple of 4.
        attention: `"se"` or `"cbam"`.
        reduction: see `ChannelAttention`.
    """

    def __init__(self, channels: int, attention: str, reduction: int = 4):
        super().__init__()
        self.out_channels = channels
        self.aspp = ASPP(channels, channels)
        self.attention = (CBAM if attention == "cbam" else ChannelAttention)(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """F_enc `[N, channels, H, W]` -> `[N, channels, H, W]`."""
        return self.attention(self.aspp(x))
