"""The operations of ``torch.ops.mbu`` with documentation, defaults and ``int`` or pair arguments.

Packed activations are int32 ``[N, H, W, ceil(C/32)]``, bit 1 = +1. Views of a wider word dimension (slices) are
accepted as they are. Every function works under ``torch.compile`` with static or dynamic shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _library
from .stem import stem_stream, stem_threshold, tile_stem_weight  # noqa: F401 (operations too)

IntPair = int | Sequence[int]
Bits = Tensor | Sequence[Tensor]


def _parts(bits: Bits) -> list[Tensor]:
    return [bits] if isinstance(bits, Tensor) else list(bits)


def _pair(value: IntPair) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def pack(x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None) -> Tensor:
    """Binarizes and packs: ``bit = (x >= threshold) ^ flip``.

    Args:
        x: float32, bfloat16 or float16 ``[N, C, H, W]``; channels_last and contiguous are the fast layouts.
        threshold: float32 ``[C]``; ``None`` is 0. Compared in float32; NaN is below every threshold.
        flip: int32 ``[ceil(C/32)]``; ``None`` is 0.

    Returns:
        int32 ``[N, H, W, ceil(C/32)]``.
    """
    _library.require()
    return torch.ops.mbu.pack(x, threshold, flip)


def unpack(bits: Tensor, channels: int) -> Tensor:
    """Bits to float32 ``[N, C, H, W]`` with values -1 and +1, in channels_last memory."""
    _library.require()
    return torch.ops.mbu.unpack(bits, channels)


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
        _parts(bits),
        weight,
        out_channels,
        _pair(kernel_size),
        _pair(stride),
        _pair(padding),
        _pair(dilation),
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
        _parts(bits),
        weight,
        threshold,
        flip,
        out_channels,
        _pair(kernel_size),
        _pair(stride),
        _pair(padding),
        _pair(dilation),
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
        _parts(bits),
        weight,
        out_channels,
        _pair(kernel_size),
        _pair(stride),
        _pair(padding),
        _pair(output_padding),
        _pair(dilation),
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
        _parts(bits),
        weight,
        threshold,
        flip,
        out_channels,
        _pair(kernel_size),
        _pair(stride),
        _pair(padding),
        _pair(output_padding),
        _pair(dilation),
        list(size),
    )


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
    """:func:`conv2d` whose result is needed as float, with what follows it in the same pass over memory.

    ``y = dot``; for every step ``y = fma(y, affine[step, 0], affine[step, 1])``; ``y = y + r``; ``y = relu(y)``;
    then ``bit = (y >= threshold)``.

    Args:
        affine: float32 ``[steps, 2, OC]``, factors and offsets: a scale, then a batch norm, rounded one by one.
        residual: float32 or bfloat16 ``[N, C_i, H, W]`` parts of the shortcut, joined along the channels; none: r = 0. With
            fewer channels than OC in all they are repeated, with more averaged over groups (c, c + OC, ...).
        threshold: float32 ``[T, OC]``, one row per plane of bits; ``None``: no bits.
        pool: the residual is the maximum over windows of ``pool`` x ``pool`` pixels.
        upsample: each pixel of the residual counts for ``upsample`` x ``upsample`` pixels (nearest).
        relu: whether to clip at zero.
        head: float32 ``[classes, OC]``, a 1x1 convolution of y, which is then not stored; without ``threshold``.
        head_bias: float32 ``[classes]``; ``None`` is 0.
        dtype: ``torch.float32``, or ``torch.bfloat16``: y is rounded once, to nearest even, where it is stored; bits
            are those of the rounded y.

    Returns:
        ``dtype [N, OC or classes, OH, OW]`` in channels_last memory, and int32 ``[N, OH, OW, T * ceil(OC/32)]``.
    """
    _library.require()
    return torch.ops.mbu.conv2d_stream(
        _parts(bits),
        weight,
        affine,
        list(residual),
        threshold,
        out_channels,
        _pair(kernel_size),
        _pair(stride),
        _pair(padding),
        _pair(dilation),
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
    """:func:`conv_transpose2d`, then the float stream as in :func:`conv2d_stream`."""
    _library.require()
    return torch.ops.mbu.conv_transpose2d_stream(
        _parts(bits),
        weight,
        affine,
        list(residual),
        threshold,
        out_channels,
        _pair(kernel_size),
        _pair(stride),
        _pair(padding),
        _pair(output_padding),
        _pair(dilation),
        pool,
        upsample,
        relu,
        list(size),
        dtype,
    )


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
    kernel = _pair(kernel_size)
    step = kernel if stride is None else _pair(stride)
    return torch.ops.mbu.max_pool2d(bits, kernel, step, _pair(padding), _pair(dilation), ceil_mode)
