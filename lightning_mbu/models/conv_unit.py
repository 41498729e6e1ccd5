"""ConvUnit: the convolution of BiSegUNet, with the batch norm and the ReLU that follow every one of them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from .shortcut import match_channels


class ConvUnit(nn.Module):
    """conv -> batch norm (momentum 0.1) -> ReLU, the C(.), B(.), D(.) and G(.) of the paper (Table 10).

    While the network is float this is all there is to it; made one-bit, B(.) reads signs and holds signs, and where
    only such layers read the ReLU they take it over.

    Args:
        in_channels, out_channels: channels.
        kernel: height and width, odd; the padding keeps the size.
        stride, dilation, groups: as in `nn.Conv2d`.

    Attributes:
        shortcut: the input is added in front of the ReLU; not in the paper. Set by `BiSegUNet(shortcuts=True)`.
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
        self.shortcut = False
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False
        )
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")  # He initialization (section IV.A)
        self.norm = nn.BatchNorm2d(out_channels, momentum=0.1)
        self.activation = nn.ReLU()  # Eq. 21

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` -> `[N, out_channels, H / stride, W / stride]`, at least 0."""
        y = self.norm(self.conv(x))
        if self.shortcut:
            stride = self.conv.stride[0]
            y = y + match_channels(x if stride == 1 else max_pool2d(x, stride), y.shape[1])
        return self.activation(y)

    @property
    def can_have_shortcut(self) -> bool:
        """Whether one channel count divides the other."""
        few, many = sorted((self.conv.in_channels, self.conv.out_channels))
        return many % few == 0
