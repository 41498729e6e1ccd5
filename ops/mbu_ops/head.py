"""Float layers: the convolution to classes behind the last layer of bits, upsampling of its logits, attention."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library
from .arguments import Bits, IntPair, pair, parts


def head_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: IntPair = 0) -> Tensor:
    """Float convolution of stride 1 to at most four classes, each pixel a few dot products.

    Sums are rounded in an order of their own, and in another one by every kernel.

    Args:
        x: float32 ``[N, C, H, W]``; channels_last is read where it lies.
        weight: float32 ``[classes, KH, KW, C]``.
        bias: float32 ``[classes]``; ``None`` is 0.
        padding: zeros around the image.

    Returns:
        float32 ``[N, classes, OH, OW]`` in channels_last memory.

    Raises:
        RuntimeError: if shapes or dtypes do not fit together; the message says which and what to do.
    """
    _library.require()
    return torch.ops.mbu.head_conv2d(x, weight, bias, pair(padding))


def joined_head(x: Bits, weight: Tensor, bias: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
    """1x1 convolution of maps joined along the channels, ``conv1x1(concat(x) * gate)``, without the concat.

    Sums are rounded in an order of their own, and in another one by every kernel.

    Args:
        x: float32 ``[N, C_i, H, W]``, one map or several; channels_last is the fast layout.
        weight: float32 ``[classes, C]``, C the sum of all C_i.
        bias: float32 ``[classes]``; ``None`` is 0.
        gate: float32 ``[N, C, 1, 1]``, as attention over channels yields it; ``None`` is 1.

    Returns:
        float32 ``[N, classes, H, W]`` in channels_last memory.

    Raises:
        RuntimeError: if shapes or dtypes do not fit together; the message says which and what to do.
    """
    _library.require()
    return torch.ops.mbu.joined_head(parts(x), weight, bias, gate)


def upsample_bilinear2d(
    x: Tensor,
    size: IntPair,
    align_corners: bool = False,
    scale_h: float | None = None,
    scale_w: float | None = None,
) -> Tensor:
    """Bilinear upsampling as ``torch.nn.functional.interpolate`` computes it, up to rounding, into memory kept between calls.

    Args:
        x: float32 ``[N, C, H, W]``; channels_last is read where it lies.
        size: height and width of the result.
        align_corners: whether the outer pixels' centres stay where they are.
        scale_h, scale_w: the factors, where those and not the size were given.

    Returns:
        float32 ``[N, C, *size]`` in channels_last memory.

    Raises:
        RuntimeError: if ``x`` has no pixels or another dtype.
    """
    _library.require()
    return torch.ops.mbu.upsample_bilinear2d(x, pair(size), align_corners, scale_h, scale_w)


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """``softmax(scale * query @ key^T) @ value``, of which no more than 512 rows of weights are held.

    Args:
        query: float32 ``[N, heads, tokens, d]``.
        key: float32 ``[N, heads, keys, d]``.
        value: float32 ``[N, heads, keys, v]``; v may differ from d.
        scale: factor of the logits.

    Returns:
        float32 ``[N, heads, tokens, v]``.

    Raises:
        RuntimeError: if shapes or dtypes do not fit together; the message says which.
    """
    _library.require()
    return torch.ops.mbu.attention(query, key, value, scale)
