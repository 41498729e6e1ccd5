"""Packed layers: float tensor in, float tensor out, bits in between. They need torch and this package alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn


class _Packed(nn.Module):
    """Planes of a weight, the layout of them that the kernel in use reads, and what comes before and after."""

    def __init__(self, planes: Tensor, threshold: Tensor | None, scale: Tensor | None, bias: Tensor | None):
        super().__init__()
        self.threshold: Tensor | None
        self.scale: Tensor | None
        self.bias: Tensor | None
        self.register_buffer("planes", planes)
        self.register_buffer("tiles", torch.ops.mbu.tile_weight(planes), persistent=False)
        self.register_buffer("threshold", threshold)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        before = self.tiles.device
        super()._apply(fn, recurse)
        if self.tiles.device != before and self.tiles.device.type != "meta":
            self.tiles = torch.ops.mbu.tile_weight(self.planes)  # each device reads a layout of its own
        return self


class PackedConv2d(_Packed):
    """A convolution, or transposed convolution, with packed weights that binarizes its own input.

        y = scale * dot(sign(x - threshold), weight) + bias

    `dot` is an exact integer; the two roundings behind it stand in the order of the trained layer.

    Args:
        planes: int32 `[2, OC, KH, KW, Cw]`, sign and mask (see `packing.pack_weight`).
        in_channels: channels of the float input.
        threshold: float32 `[thresholds_per_channel * in_channels]`, or None for zero.
        thresholds_per_channel: T of a thermometer code: each channel yields T bits, and the weight reads T times
            `in_channels` channels, plane after plane.
        scale: float32 `[OC]`, or None for one.
        bias: float32 `[OC]`, or None for zero.
        stride, padding, dilation: height and width, as in `torch.nn.Conv2d`; padded zeros contribute nothing.
        transposed: a transposed convolution; then `output_padding` applies too.
    """

    def __init__(
        self,
        planes: Tensor,
        in_channels: int,
        *,
        threshold: Tensor | None = None,
        thresholds_per_channel: int = 1,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        transposed: bool = False,
        output_padding: Sequence[int] = (0, 0),
    ):
        super().__init__(planes, threshold, scale, bias)
        _, self.out_channels, *kernel_size, _ = planes.shape
        self.in_channels, self.thresholds_per_channel = in_channels, thresholds_per_channel
        self.kernel_size = kernel_size
        self.stride, self.padding, self.dilation = list(stride), list(padding), list(dilation)
        self.transposed, self.output_padding = transposed, list(output_padding)

    def forward(self, x: Tensor) -> Tensor:
        """Float `[N, in_channels, H, W]` -> float32 `[N, OC, H', W']`."""
        if self.thresholds_per_channel > 1:
            x = torch.cat([x] * self.thresholds_per_channel, 1)
        bits = [torch.ops.mbu.pack(x, self.threshold)]
        if self.transposed:
            y = torch.ops.mbu.conv_transpose2d(
                bits, self.tiles, self.out_channels, self.kernel_size, self.stride, self.padding,
                self.output_padding, self.dilation,
            )  # fmt: skip
        else:
            y = torch.ops.mbu.conv2d(
                bits,
                self.tiles,
                self.out_channels,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
            )
        if self.scale is not None:
            y = y * self.scale.view(1, -1, 1, 1)
        if self.bias is not None:
            y = y + self.bias.view(1, -1, 1, 1)
        return y

    def extra_repr(self) -> str:
        kind = "transposed, " if self.transposed else ""
        return f"{kind}{self.in_channels}, {self.out_channels}, kernel_size={tuple(self.kernel_size)}"


class PackedLinear(_Packed):
    """A linear layer with packed weights that binarizes its own input; otherwise as `PackedConv2d`.

    Args:
        planes: int32 `[2, OC, 1, 1, Cw]`, sign and mask, those of a 1x1 convolution.
        in_features: features of the float input.
        threshold: float32 `[in_features]`, or None for zero.
        scale: float32 `[OC]`, or None for one.
        bias: float32 `[OC]`, or None for zero.
    """

    def __init__(
        self,
        planes: Tensor,
        in_features: int,
        *,
        threshold: Tensor | None = None,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
    ):
        super().__init__(planes, threshold, scale, bias)
        self.in_features, self.out_features = in_features, planes.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Float `[..., in_features]` -> float32 `[..., out_features]`."""
        rows = x.reshape(1, -1, 1, self.in_features)
        bits = torch.ops.mbu.pack(rows.permute(0, 3, 1, 2), self.threshold)
        y = torch.ops.mbu.gemm(bits, self.tiles, self.out_features)
        y = y.reshape(*x.shape[:-1], self.out_features)
        if self.scale is not None:
            y = y * self.scale
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"
