"""The operations of ``torch.ops.mbu`` with documentation, defaults and ``int`` or pair arguments.

Packed activations are int32 ``[N, H, W, ceil(C/32)]``, bit 1 = +1. Views of a wider word dimension (slices) are
accepted as they are. Every function works under ``torch.compile`` with static or dynamic shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _library
from .arguments import Bits, IntPair, pair, parts
from .head import attention, head_conv2d, joined_head, upsample_bilinear2d  # noqa: F401 (operations too)
from .stem import stem_stream, stem_threshold, tile_stem_weight  # noqa: F401 (operations too)
from .streams import conv2d_stream, conv_transpose2d_stream  # noqa: F401 (operations too)


def pack(
    x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None, gate: Tensor | None = None
) -> Tensor:
    """Binarizes and packs: ``bit = (gate * x >= threshold) ^ flip``.

    Args:
        x: float32, bfloat16, float16 or int8 (sixteenths) ``[N, C, H, W]``; channels_last and contiguous are the fast layouts.
        threshold: float32 ``[C]``, or ``[T, C]`` for T planes of one thermometer code; ``None`` is 0. Compared in float32; NaN
            is below every threshold.
        flip: int32 ``[ceil(C/32)]``, with a row for each of T planes; ``None`` is 0.
        gate: float32 ``[N, C, 1, 1]``, as attention over channels yields it; ``None`` is 1. The product is rounded as
            torch rounds it and never stored. Values of ``x`` must then be finite.

    Returns:
        int32 ``[N, H, W, ceil(C/32)]``; planes follow one another, ``[N, H, W, T * ceil(C/32)]``.
    """
    _library.require()
    return torch.ops.mbu.pack(x, threshold, flip, gate)


def unpack(bits: Tensor, channels: int) -> Tensor:
    """Bits to float32 ``[N, C, H, W]`` with values -1 and +1, in channels_last memory."""
    _library.require()
    return torch.ops.mbu.unpack(bits, channels)


def join_bits(bits: Bits, channels: Sequence[int]) -> Tensor:
    """Joins packed activations along the channels without gaps: what packing the concat of their values would give.

    A convolution also takes its parts as they are, each then starts at a new word. Joined, parts of few channels share words.

    Args:
        bits: int32 ``[N, H, W, ceil(C_i/32)]``, one part or several of one size; the bits behind channel C_i are 0, as
            every operation leaves them.
        channels: C_i of every part.

    Returns:
        int32 ``[N, H, W, ceil(sum(C_i)/32)]``.

    Raises:
        RuntimeError: if parts differ in size, or words and channel counts do not fit together.
    """
    _library.require()
    return torch.ops.mbu.join_bits(parts(bits), list(channels))


def tile_weight(planes: Tensor) -> Tensor:
    """Weight planes to the layout that the CPU kernel in use reads.

    Of every 32 output channels it keeps the input words between the first and the last that are not all zero:
    a grouped convolution costs what its groups span.

    Args:
        planes: int32 ``[2, OC, KH, KW, Cw]``, see :func:`mbu_ops.packing.pack_weight`.

    Returns:
        An opaque 1-d int32 tensor. Store the planes, not this: its layout differs between processors and may
        change between versions. A kernel that reads another layout refuses it.
    """
    _library.require()
    return torch.ops.mbu.tile_weight(planes)


def conv2d(
    bits: Bits,
    weight: Tensor,
    out_channels: int,
    kernel_size: IntPair,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    pad_value: int = 0,
    size: Sequence[int] = (),
) -> Tensor:
    """Masked binary convolution.

    Args:
        bits: packed activations ``[N, H, W, Cw]``; several are joined along the channels, each starting at a new
            word, as if by ``torch.cat`` in front of the call, but without a pass over memory.
        weight: result of :func:`tile_weight`.
        out_channels: OC; with ``kernel_size`` and Cw it must agree with ``weight``.
        kernel_size: taps, as are ``stride``, ``padding``, ``dilation``, in pixels; an int or (height, width).
        stride: step between outputs.
        padding: pixels added on each side.
        dilation: distance between taps.
        pad_value: 0: a padded tap contributes nothing (exact zero padding); -1: a padded activation is -1.
        size: height and width that every part of ``bits`` is brought to first, by nearest as in
            ``torch.nn.functional.interpolate(size=...)``. Empty: all have one size.

    Returns:
        float32 ``[N, OC, OH, OW]`` in channels_last memory: exact integer dot products.

    Raises:
        RuntimeError: if shapes, dtypes or the weight do not fit together; the message says which and what to do.
    """
    _library.require()
    return torch.ops.mbu.conv2d(
        parts(bits),
        weight,
        out_channels,
        pair(kernel_size),
        pair(stride),
        pair(padding),
        pair(dilation),
        pad_value,
        list(size),
    )


def conv2d_threshold(
    bits: Bits,
    weight: Tensor,
    threshold: Tensor,
    flip: Tensor,
    out_channels: int,
    kernel_size: IntPair,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    pad_value: int = 0,
    size: Sequence[int] = (),
) -> Tensor:
    """:func:`conv2d` followed by thresholds: ``bit = (dot >= threshold) ^ flip``, packed.

    Args:
        threshold: int32 ``[T, OC]``, one row per output plane (T > 1: thermometer code). Any value is valid;
            the smallest int32 makes a bit always true, the largest always false.
        flip: int32 ``[T, ceil(OC/32)]``.

    Returns:
        int32 ``[N, OH, OW, T * ceil(OC/32)]``, plane after plane.
    """
    _library.require()
    return torch.ops.mbu.conv2d_threshold(
        parts(bits),
        weight,
        threshold,
        flip,
        out_channels,
        pair(kernel_size),
        pair(stride),
        pair(padding),
        pair(dilation),
        pad_value,
        list(size),
    )


def conv_transpose2d(
    bits: Bits,
    weight: Tensor,
    out_channels: int,
    kernel_size: IntPair,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    dilation: IntPair = 1,
    size: Sequence[int] = (),
) -> Tensor:
    """Transposed masked binary convolution, arguments as in ``torch.nn.ConvTranspose2d``.

    Returns:
        float32 ``[N, OC, OH, OW]`` in channels_last memory: exact integer sums.
    """
    _library.require()
    return torch.ops.mbu.conv_transpose2d(
        parts(bits),
        weight,
        out_channels,
        pair(kernel_size),
        pair(stride),
        pair(padding),
        pair(output_padding),
        pair(dilation),
        list(size),
    )


def conv_transpose2d_threshold(
    bits: Bits,
    weight: Tensor,
    threshold: Tensor,
    flip: Tensor,
    out_channels: int,
    kernel_size: IntPair,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    dilation: IntPair = 1,
    size: Sequence[int] = (),
) -> Tensor:
    """:func:`conv_transpose2d` followed by thresholds, as in :func:`conv2d_threshold`."""
    _library.require()
    return torch.ops.mbu.conv_transpose2d_threshold(
        parts(bits),
        weight,
        threshold,
        flip,
        out_channels,
        pair(kernel_size),
        pair(stride),
        pair(padding),
        pair(output_padding),
        pair(dilation),
        list(size),
    )


def gemm(bits: Tensor, weight: Tensor, out_channels: int) -> Tensor:
    """Masked binary matrix product: a linear layer on packed activations.

    Args:
        bits: packed activations int32 ``[..., Cw]``, Cw = ceil(C/32); any number of leading dimensions.
        weight: result of :func:`tile_weight` for planes ``[2, OC, 1, 1, Cw]``, those of a 1x1 convolution.
        out_channels: OC.

    Returns:
        float32 ``[..., OC]``: exact integer dot products.

    Raises:
        RuntimeError: if shapes, dtypes or the weight do not fit together; the message says which and what to do.
    """
    _library.require()
    return torch.ops.mbu.gemm(bits, weight, out_channels)


def gemm_threshold(
    bits: Tensor, weight: Tensor, threshold: Tensor, flip: Tensor, out_channels: int
) -> Tensor:
    """:func:`gemm` followed by thresholds, ``bit = (dot >= threshold) ^ flip``, packed: see :func:`conv2d_threshold`.

    Returns:
        int32 ``[..., T * ceil(OC/32)]``, plane after plane.
    """
    _library.require()
    return torch.ops.mbu.gemm_threshold(bits, weight, threshold, flip, out_channels)


def max_pool2d(
    bits: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Max pooling of packed activations (OR of the window); output size as in ``torch.nn.MaxPool2d``.

    Args:
        stride: ``None`` is ``kernel_size``.

    Returns:
        int32 ``[N, OH, OW, Cw]``.
    """
    _library.require()
    kernel = pair(kernel_size)
    step = kernel if stride is None else pair(stride)
    return torch.ops.mbu.max_pool2d(bits, kernel, step, pair(padding), pair(dilation), ceil_mode)
