"""The stem: the float convolution that reads the image, with its bits in the same pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library
from .arguments import IntPair, pair
from .packing import WORD_BITS, words_of


def tile_stem_weight(weight: Tensor) -> Tensor:
    """The layout that the stem reads, the same on every processor.

    Args:
        weight: float32 ``[OC, C, KH, KW]``.

    Returns:
        float32 ``[ceil(OC/32), KH, KW, C, 32]``; added output channels weigh 0.

    Raises:
        ValueError: if the weight is not 4-d.
    """
    if weight.dim() != 4:
        raise ValueError(
            f"tile_stem_weight: weight has shape {tuple(weight.shape)}; it must be [OC, C, KH, KW]"
        )
    words = words_of(weight.shape[0])
    padded = weight.new_zeros(words * WORD_BITS, *weight.shape[1:], dtype=torch.float32)
    padded[: weight.shape[0]] = weight
    return padded.unflatten(0, (words, WORD_BITS)).permute(0, 3, 4, 2, 1).contiguous()


def untile_stem_weight(tiled: Tensor, out_channels: int) -> Tensor:
    """The inverse of :func:`tile_stem_weight`: float32 ``[OC, C, KH, KW]``."""
    return tiled.permute(0, 4, 3, 1, 2).flatten(0, 1)[:out_channels].contiguous()


def stem_threshold(
    x: Tensor,
    weight: Tensor,
    threshold: Tensor,
    flip: Tensor,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
) -> Tensor:
    """Float convolution followed by thresholds: ``bit = (conv(x) >= threshold) ^ flip``, packed.

    Products are summed by fused multiply-adds, tap by tap and channel by channel; every kernel gives the same bits.
    ``torch.nn.functional.conv2d`` sums in another order and differs by the rounding of such a sum.

    Args:
        x: float32 ``[N, C, H, W]``, any memory format.
        weight: result of :func:`tile_stem_weight`.
        threshold: float32 ``[T, OC]``, one row per plane of bits; NaN is below every threshold.
        flip: int32 ``[T, ceil(OC/32)]``.
        stride: pixels, as are ``padding`` and ``dilation``; an int or ``[height, width]``.

    Returns:
        int32 ``[N, OH, OW, T * ceil(OC/32)]``, plane after plane.

    Raises:
        RuntimeError: if shapes or dtypes do not fit together; the message says which and what to do.
    """
    _library.require()
    return torch.ops.mbu.stem_threshold(
        x, weight, threshold, flip, pair(stride), pair(padding), pair(dilation)
    )


def stem_stream(
    x: Tensor,
    weight: Tensor,
    affine: Tensor,
    threshold: Tensor | None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    relu: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Float convolution whose result starts a float stream: ``y = conv(x)``; for every step
    ``y = fma(y, affine[step, 0], affine[step, 1])``; ``y = relu(y)``; then ``bit = (y >= threshold)``.

    Args:
        affine: float32 ``[steps, 2, OC]``, factors and offsets.
        threshold: float32 ``[T, OC]``, one row per plane of bits; ``None``: no bits.
        relu: whether to clip at zero. The others are those of :func:`stem_threshold`.
        dtype: that of :func:`mbu_ops.streams.conv2d_stream`: y is rounded once, where it is stored; bits are of what
            is stored.

    Returns:
        ``dtype`` ``[N, OC, OH, OW]`` in channels_last memory, and int32 ``[N, OH, OW, T * ceil(OC/32)]``.
    """
    _library.require()
    return torch.ops.mbu.stem_stream(
        x, weight, affine, threshold, pair(stride), pair(padding), pair(dilation), relu, dtype
    )
