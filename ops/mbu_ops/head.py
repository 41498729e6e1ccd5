"""The float convolution to a few classes behind the last layer of bits."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library
from .arguments import IntPair, pair


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
