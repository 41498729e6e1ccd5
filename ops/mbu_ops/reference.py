"""The truth that the kernels are tested against: slow, plain torch, no compiled operation of this package.

Takes weight *planes* (``pack_weight``), not tiled weights; otherwise the arguments of ``mbu_ops.functional``.
Sums are computed in float64, where every integer below 2**53 is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .packing import WORD_BITS, pack_bits, unpack_bits, unpack_weight, words_of

IntPair = int | Sequence[int]


def _pair(value: IntPair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _activations(bits: Tensor) -> Tensor:
    """All Cw * 32 channels as -1 and +1, float64 ``[N, C, H, W]``; tail channels meet weights that are 0."""
    signs = unpack_bits(bits, bits.shape[-1] * WORD_BITS).to(torch.float64) * 2 - 1
    return signs.permute(0, 3, 1, 2)


def _weights(planes: Tensor) -> Tensor:
    return unpack_weight(planes, planes.shape[-1] * WORD_BITS).to(torch.float64)


def _threshold(dots: Tensor, threshold: Tensor, flip: Tensor) -> Tensor:
    channels = dots.shape[1]
    planes = []
    for row, flips in zip(threshold, flip, strict=True):
        bit = dots.permute(0, 2, 3, 1) >= row.to(torch.float64)
        planes.append(pack_bits(bit ^ unpack_bits(flips, channels)))
    return torch.cat(planes, dim=-1)


def join(bits: Sequence[Tensor], size: Sequence[int] | None = None) -> Tensor:
    """The one input that the parts of a convolution's input stand for: ``bits`` in front of any function here."""
    if size:
        bits = [
            F.interpolate(part.permute(0, 3, 1, 2).double(), size=list(size)).permute(0, 2, 3, 1).int()
            for part in bits
        ]
    return torch.cat(list(bits), -1)


def narrow(y: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 as a stream of ``dtype`` stores it; int8: sixteenths, to nearest, ties to even, as near as they reach."""
    return (y * 16).round().clamp(-128, 127).to(dtype) if dtype == torch.int8 else y.to(dtype)


def widen(x: Tensor) -> Tensor:
    """A stream as float32."""
    return x.float() / 16 if x.dtype == torch.int8 else x.float()


def pack(
    x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None, gate: Tensor | None = None
) -> Tensor:
    """See :func:`mbu_ops.functional.pack`."""
    values = widen(x)
    values = (values if gate is None else values * gate).permute(0, 2, 3, 1)
    if threshold is not None and threshold.dim() == 2:
        flips = [None] * len(threshold) if flip is None else flip
        return torch.cat([pack(x, row, f, gate) for row, f in zip(threshold, flips, strict=True)], -1)
    bits = values >= (0.0 if threshold is None else threshold)
    if flip is not None:
        bits = bits ^ unpack_bits(flip, x.shape[1])
    return pack_bits(bits)


def unpack(bits: Tensor, channels: int) -> Tensor:
    """See :func:`mbu_ops.functional.unpack`."""
    if bits.shape[-1] != words_of(channels):
        raise ValueError(f"unpack: channels={channels} does not fit {bits.shape[-1]} words")
    return _channels_last((unpack_bits(bits, channels).to(torch.float32) * 2 - 1).permute(0, 3, 1, 2))


def join_bits(bits: Sequence[Tensor], channels: Sequence[int]) -> Tensor:
    """See :func:`mbu_ops.functional.join_bits`."""
    return pack_bits(
        torch.cat([unpack_bits(part, count) for part, count in zip(bits, channels, strict=True)], -1)
    )


def conv2d(
    bits: Tensor,
    planes: Tensor,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    pad_value: int = 0,
) -> Tensor:
    """See :func:`mbu_ops.functional.conv2d`."""
    pad_h, pad_w = _pair(padding)
    x = F.pad(_activations(bits), (pad_w, pad_w, pad_h, pad_h), value=float(pad_value))
    return _channels_last(
        F.conv2d(x, _weights(planes), stride=_pair(stride), dilation=_pair(dilation)).float()
    )


def conv2d_threshold(
    bits: Tensor,
    planes: Tensor,
    threshold: Tensor,
    flip: Tensor,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    pad_value: int = 0,
) -> Tensor:
    """See :func:`mbu_ops.functional.conv2d_threshold`."""
    return _threshold(conv2d(bits, planes, stride, padding, dilation, pad_value), threshold, flip)


def conv_transpose2d(
    bits: Tensor,
    planes: Tensor,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    dilation: IntPair = 1,
) -> Tensor:
    """See :func:`mbu_ops.functional.conv_transpose2d`."""
    sums = F.conv_transpose2d(
        _activations(bits),
        _weights(planes).transpose(0, 1),
        stride=_pair(stride),
        padding=_pair(padding),
        output_padding=_pair(output_padding),
        dilation=_pair(dilation),
    )
    return _channels_last(sums.float())


def conv_transpose2d_threshold(
    bits: Tensor,
    planes: Tensor,
    threshold: Tensor,
    flip: Tensor,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    dilation: IntPair = 1,
) -> Tensor:
    """See :func:`mbu_ops.functional.conv_transpose2d_threshold`."""
    return _threshold(
        conv_transpose2d(bits, planes, stride, padding, output_padding, dilation), threshold, flip
    )


def gemm(bits: Tensor, planes: Tensor) -> Tensor:
    """See :func:`mbu_ops.functional.gemm`."""
    signs = unpack_bits(bits, bits.shape[-1] * WORD_BITS).to(torch.float64) * 2 - 1
    return (signs @ _weights(planes).flatten(1).T).float()


def gemm_threshold(bits: Tensor, planes: Tensor, threshold: Tensor, flip: Tensor) -> Tensor:
    """See :func:`mbu_ops.functional.gemm_threshold`."""
    dots = gemm(bits, planes)
    words = _threshold(dots.reshape(1, -1, 1, dots.shape[-1]).permute(0, 3, 1, 2), threshold, flip)
    return words.reshape(*bits.shape[:-1], words.shape[-1])


def stream(
    dots: Tensor,
    affine: Tensor,
    residual: Sequence[Tensor] | None,
    threshold: Tensor | None,
    pool: int = 1,
    upsample: int = 1,
    relu: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """What :func:`mbu_ops.functional.conv2d_stream` does behind its dot products ``[N, OC, OH, OW]``.

    The fused multiply-add is taken in float64 and rounded once more, which differs from the true one in about one
    of 2**29 cases.
    """
    y, channels = dots, dots.shape[1]
    for factor, offset in affine.to(torch.float64)[..., None, None]:
        y = (y.to(torch.float64) * factor + offset).to(torch.float32)
    if residual:
        r = torch.cat([F.max_pool2d(widen(part), pool) for part in residual], 1)
        r = r.repeat_interleave(upsample, 2).repeat_interleave(upsample, 3)
        r = r.repeat(1, max(channels // r.shape[1], 1), 1, 1)
        groups = r.split(channels, 1)
        total = groups[0]
        for group in groups[1:]:
            total = total + group
        y = y + total / len(groups)
    y = _channels_last(narrow(y.relu() if relu else y, dtype))
    rows = () if threshold is None else threshold
    planes = [pack(y, row) for row in rows]
    empty = y.new_empty((y.shape[0], *y.shape[2:], 0), dtype=torch.int32)
    return y, torch.cat(planes, -1) if planes else empty


def stem(
    x: Tensor, weight: Tensor, stride: IntPair = 1, padding: IntPair = 0, dilation: IntPair = 1
) -> Tensor:
    """The sums of :func:`mbu_ops.stem.stem_stream` for a float32 weight ``[OC, C, KH, KW]``, rounded once."""
    sums = F.conv2d(
        x.to(torch.float64),
        weight.to(torch.float64),
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
    )
    return _channels_last(sums.float())


def max_pool2d(
    bits: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """See :func:`mbu_ops.functional.max_pool2d`."""
    kernel = _pair(kernel_size)
    pooled = F.max_pool2d(
        _activations(bits).to(torch.float32),
        kernel,
        kernel if stride is None else _pair(stride),
        _pair(padding),
        _pair(dilation),
        ceil_mode,
    )
    return pack_bits(pooled.permute(0, 2, 3, 1) >= 0)
