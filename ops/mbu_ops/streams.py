"""Convolutions whose result is needed as float, with what follows them in the same pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _library
from .arguments import Bits, IntPair, pair, parts


def conv2d_stream(
    bits: Bits,
    weight: Tensor,
    affine: Tensor,
    residual: Sequence[Tensor],
    threshold: Tensor | None,
    out_channels: int,
    kernel_size: IntPair,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    pad_value: int = 0,
    pool: int = 1,
    upsample: int = 1,
    relu: bool = False,
    size: Sequence[int] = (),
    head: Tensor | None = None,
    head_bias: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """:func:`mbu_ops.functional.conv2d`, its result as float, with what follows it in the same pass over memory.

    ``y = dot``; for every step ``y = fma(y, affine[step, 0], affine[step, 1])``; ``y = y + r``; ``y = relu(y)``;
    then ``bit = (y >= threshold)``.

    Args:
        affine: float32 ``[steps, 2, OC]``, factors and offsets: a scale, then a batch norm, rounded one by one.
        residual: float32, bfloat16 or int8 ``[N, C_i, H, W]`` parts of the shortcut, joined along the channels; none: r = 0. With
            fewer channels than OC in all they are repeated, with more averaged over groups (c, c + OC, ...).
        threshold: float32 ``[T, OC]``, one row per plane of bits; ``None``: no bits.
        pool: the residual is the maximum over windows of ``pool`` x ``pool`` pixels.
        upsample: each pixel of the residual counts for ``upsample`` x ``upsample`` pixels (nearest).
        relu: whether to clip at zero.
        head: float32 ``[classes, OC]``, a 1x1 convolution of y, which is then not stored; without ``threshold``.
        head_bias: float32 ``[classes]``; ``None`` is 0.
        dtype: ``torch.float32``, ``torch.bfloat16``, or ``torch.int8``: sixteenths, from -8 to 127/16. y is rounded
            once, to nearest even, where it is stored; bits are those of the rounded y. Without NaN in int8.

    Returns:
        ``dtype [N, OC or classes, OH, OW]`` in channels_last memory, and int32 ``[N, OH, OW, T * ceil(OC/32)]``.
    """
    _library.require()
    return torch.ops.mbu.conv2d_stream(
        parts(bits),
        weight,
        affine,
        list(residual),
        threshold,
        out_channels,
        pair(kernel_size),
        pair(stride),
        pair(padding),
        pair(dilation),
        pad_value,
        pool,
        upsample,
        relu,
        list(size),
        head,
        head_bias,
        dtype,
    )


def conv_transpose2d_stream(
    bits: Bits,
    weight: Tensor,
    affine: Tensor,
    residual: Sequence[Tensor],
    threshold: Tensor | None,
    out_channels: int,
    kernel_size: IntPair,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    dilation: IntPair = 1,
    pool: int = 1,
    upsample: int = 1,
    relu: bool = False,
    size: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """:func:`mbu_ops.functional.conv_transpose2d`, then the float stream as in :func:`conv2d_stream`."""
    _library.require()
    return torch.ops.mbu.conv_transpose2d_stream(
        parts(bits),
        weight,
        affine,
        list(residual),
        threshold,
        out_channels,
        pair(kernel_size),
        pair(stride),
        pair(padding),
        pair(output_padding),
        pair(dilation),
        pool,
        upsample,
        relu,
        list(size),
        dtype,
    )
