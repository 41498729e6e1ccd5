"""ConvUnit: the convolution of BiSegUNet, with the batch norm and the ReLU that follow every one of them."""

from __future__ import annotations

from torch import Tensor, nn


class ConvUnit(nn.Module):
    """conv -> batch norm (momentum 0.1) -> ReLU, the C(.), B(.), D(.) and G(.) of the paper (Table 10).

    While the network is float this is all there is to it; made one-bit, B(.) reads signs and holds signs, and where
    only such layers read the ReLU they take it over.

    Args:
        in_channels, out_channels: channels.
        kernel: height and width, odd; the padding keeps the size.
        stride, dilation, groups: as in `nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ):
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False
        )
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")  # He initialization (section IV.A)
        self.norm = nn.BatchNorm2d(out_channels, momentum=0.1)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` -> `[N, out_channels, H / stride, W / stride]`, at least 0."""
        return self.activation(self.norm(self.conv(x)))
