"""MBUNet: the U-Net of the MBU-Net paper (figure A.1, table A.4), ready to become masked-binary.

    stem   conv 3x3 (float)  -> conv 3x3                         resolution 1      w
    down1  pool 2x2 -> 2 conv 3x3                                1/2               2w
    down2                                                        1/4               4w
    down3                                                        1/8               8w
    down4                                                        1/16              8w
    up1    transposed 2x2 -> concat(skip, up) -> 2 conv 3x3      1/8               4w
    up2                                                          1/4               2w
    up3                                                          1/2               w
    up4                                                          1                 w
    head   conv 1x1 (float)                                      1                 classes

Every convolution is preceded by its activation and followed by its batch norm. That is the paper's
conv -> batch norm -> activation chain with the brackets moved: max-pool and concat commute with ReLU,
so both are the same function, and a binarizer takes the activation's place where it stands.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..quantizers import STREAM_DTYPES, round_stream
from .shortcut import match_channels

_STRIDE = 16


class DoubleConv(nn.Module):
    """activation -> conv 3x3 -> batch norm, twice; with `shortcuts`, each conv is bridged by its own input.

    The stream is stored as `stream_dtype` behind the first addition and as `output_dtype` behind the second.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shortcuts: bool,
        stream_dtype: str = "float32",
        output_dtype: str = "float32",
    ):
        super().__init__()
        self.shortcuts, self.stream_dtype, self.output_dtype = shortcuts, stream_dtype, output_dtype
        self.activation1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.activation2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` -> `[N, out_channels, H, W]`, before the next activation."""
        y = self.norm1(self.conv1(self.activation1(x)))
        if self.shortcuts:
            y = round_stream(y + match_channels(x, y.shape[1]), self.stream_dtype)
        z = self.norm2(self.conv2(self.activation2(y)))
        return round_stream(z + y, self.output_dtype) if self.shortcuts else z


class Stem(nn.Module):
    """The two input convolutions; the first reads the image and stays float."""

    def __init__(self, in_channels: int, out_channels: int, shortcuts: bool, stream_dtype: str = "float32"):
        super().__init__()
        self.shortcuts, self.stream_dtype = shortcuts, stream_dtype
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.activation2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` -> `[N, out_channels, H, W]`, before the next activation."""
        y = round_stream(self.norm1(self.conv1(x)), self.stream_dtype)
        z = self.norm2(self.conv2(self.activation2(y)))
        return round_stream(z + y, self.stream_dtype) if self.shortcuts else z


class Up(nn.Module):
    """Transposed conv 2x2 stride 2 -> batch norm -> concat with the skip -> `DoubleConv`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shortcuts: bool,
        stream_dtype: str = "float32",
        output_dtype: str = "float32",
    ):
        super().__init__()
        self.shortcuts, self.stream_dtype = shortcuts, stream_dtype
        self.activation = nn.ReLU()
        self.transpose = nn.ConvTranspose2d(in_channels, in_channels, 2, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(in_channels)
        self.block = DoubleConv(2 * in_channels, out_channels, shortcuts, stream_dtype, output_dtype)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`x [N, C, H, W]`, `skip [N, C, 2H, 2W]` -> `[N, out_channels, 2H, 2W]`."""
        y = self.norm(self.transpose(self.activation(x)))
        if self.shortcuts:
            y = y + nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            y = round_stream(y, self.stream_dtype)
        return self.block(torch.cat([skip, y], dim=1))


class MBUNet(nn.Module):
    """The U-Net of the MBU-Net paper.

    Args:
        in_channels: channels of the image.
        classes: channels of the output logits.
        width: channels of the first level (64 in the paper: 14.8 M parameters, 127.5 G multiply-adds at 512x512).
        shortcuts: real-valued Bi-Real shortcuts around every convolution (arXiv:1808.00278); they keep the
            accuracy of a one-bit network, and keep a float stream between its layers.
        stream_dtype: `"bfloat16"` or `"int8"` (sixteenths, within [-8, 8)) rounds that stream where it starts and
            behind every addition, so that the packed network stores it in half or a quarter of the memory and stays
            bit-exact. The last one is read by the float head alone and is not rounded.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        width: int = 64,
        shortcuts: bool = False,
        stream_dtype: str = "float32",
    ):
        super().__init__()
        if stream_dtype not in STREAM_DTYPES or (stream_dtype != "float32" and not shortcuts):
            raise ValueError(
                f"stream_dtype={stream_dtype!r} with shortcuts={shortcuts}; it must be one of "
                f"{', '.join(STREAM_DTYPES)}, and only shortcuts=True has a stream to store."
            )
        if min(in_channels, classes, width) < 1:
            raise ValueError(
                f"in_channels={in_channels}, classes={classes} and width={width} must all be at least 1."
            )
        w, dtype = width, stream_dtype
        self.stem = Stem(in_channels, w, shortcuts, dtype)
        self.pool = nn.MaxPool2d(2)
        self.down1 = DoubleConv(w, 2 * w, shortcuts, dtype, dtype)
        self.down2 = DoubleConv(2 * w, 4 * w, shortcuts, dtype, dtype)
        self.down3 = DoubleConv(4 * w, 8 * w, shortcuts, dtype, dtype)
        self.down4 = DoubleConv(8 * w, 8 * w, shortcuts, dtype, dtype)
        self.up1 = Up(8 * w, 4 * w, shortcuts, dtype, dtype)
        self.up2 = Up(4 * w, 2 * w, shortcuts, dtype, dtype)
        self.up3 = Up(2 * w, w, shortcuts, dtype, dtype)
        self.up4 = Up(w, w, shortcuts, dtype)
        self.activation = nn.ReLU()
        self.head = nn.Conv2d(w, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Image `[N, in_channels, H, W]`, H and W multiples of 16 -> logits `[N, classes, H, W]`.

        Raises:
            ValueError: H or W is not a multiple of 16.
        """
        height, width = x.shape[-2:]
        if not torch.compiler.is_compiling() and (height % _STRIDE or width % _STRIDE):
            padded = [-(-size // _STRIDE) * _STRIDE for size in (height, width)]
            raise ValueError(
                f"the input is {height}x{width}; height and width must be multiples of {_STRIDE}. "
                f"Pad the images to {padded[0]}x{padded[1]}."
            )
        skip1 = self.stem(x)
        skip2 = self.down1(self.pool(skip1))
        skip3 = self.down2(self.pool(skip2))
        skip4 = self.down3(self.pool(skip3))
        y = self.down4(self.pool(skip4))
        y = self.up1(y, skip4)
        y = self.up2(y, skip3)
        y = self.up3(y, skip2)
        y = self.up4(y, skip1)
        return self.head(self.activation(y))
