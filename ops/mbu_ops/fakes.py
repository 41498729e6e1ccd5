"""Shapes, dtypes and memory formats of the operations, for torch.compile and torch.export (symbols allowed)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import _library
from .packing import words_of


def conv_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Output pixels of a convolution along one axis."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def transposed_size(
    size: int, kernel: int, stride: int, padding: int, output_padding: int, dilation: int
) -> int:
    """Output pixels of a transposed convolution along one axis."""
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1


def pool_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Output pixels of a max pool along one axis, the rule of ``torch.nn.MaxPool2d``."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    pixels = (room + stride - 1) // stride + 1
    # The last window must start inside the input or the padding before it.
    return pixels - 1 if (pixels - 1) * stride >= size + padding else pixels


def _sums(
    bits: Tensor, channels: int, height: int, width: int, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.empty(
        (bits.shape[0], channels, height, width),
        dtype=dtype,
        device=bits.device,
        memory_format=torch.channels_last,
    )


def _words(bits: Tensor, height: int, width: int, words: int) -> Tensor:
    return bits.new_empty((bits.shape[0], height, width, words), dtype=torch.int32)


def _pack(x: Tensor, threshold=None, flip=None, gate=None) -> Tensor:
    n, channels, height, width = x.shape
    planes = threshold.shape[0] if threshold is not None and threshold.dim() == 2 else 1
    return x.new_empty((n, height, width, planes * words_of(channels)), dtype=torch.int32)


def _unpack(bits: Tensor, channels: int) -> Tensor:
    return _sums(bits, channels, bits.shape[1], bits.shape[2])


def _join_bits(bits: Sequence[Tensor], channels: Sequence[int]) -> Tensor:
    return _words(bits[0], bits[0].shape[1], bits[0].shape[2], words_of(sum(channels)))


def _tile_weight(planes: Tensor) -> Tensor:
    # Its size depends on which words of the planes are zero.
    return planes.new_empty(torch.library.get_ctx().new_dynamic_size())


def _input_size(bits: Sequence[Tensor], size: Sequence[int] | None) -> Sequence[int]:
    return size if size else bits[0].shape[1:3]


def _conv_shape(
    pixels: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    return [conv_size(pixels[i], kernel[i], stride[i], padding[i], dilation[i]) for i in range(2)]


def _transposed_shape(
    pixels: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    return [
        transposed_size(pixels[i], kernel[i], stride[i], padding[i], output_padding[i], dilation[i])
        for i in range(2)
    ]


def _conv2d(bits, weight, out_channels, kernel_size, stride, padding, dilation, pad_value=0, size=None):
    return _sums(
        bits[0], out_channels, *_conv_shape(_input_size(bits, size), kernel_size, stride, padding, dilation)
    )


def _conv2d_threshold(
    bits, weight, threshold, flip, out_channels, kernel_size, stride, padding, dilation, pad_value=0, size=None
):  # fmt: skip
    words = threshold.shape[0] * words_of(out_channels)
    height, width = _conv_shape(_input_size(bits, size), kernel_size, stride, padding, dilation)
    return _words(bits[0], height, width, words)


def _conv_transpose2d(
    bits, weight, out_channels, kernel_size, stride, padding, output_padding, dilation, size=None
):
    shape = _transposed_shape(_input_size(bits, size), kernel_size, stride, padding, output_padding, dilation)
    return _sums(bits[0], out_channels, *shape)


def _conv_transpose2d_threshold(
    bits,
    weight,
    threshold,
    flip,
    out_channels,
    kernel_size,
    stride,
    padding,
    output_padding,
    dilation,
    size=None,
):
    words = threshold.shape[0] * words_of(out_channels)
    height, width = _transposed_shape(
        _input_size(bits, size), kernel_size, stride, padding, output_padding, dilation
    )
    return _words(bits[0], height, width, words)


def _conv2d_stream(
    bits, weight, affine, residual, threshold, out_channels, kernel_size, stride, padding, dilation,
    pad_value=0, pool=1, upsample=1, relu=False, size=None, head=None, head_bias=None, dtype=None,
):  # fmt: skip
    height, width = _conv_shape(_input_size(bits, size), kernel_size, stride, padding, dilation)
    floats, words = _stream(bits[0], threshold, out_channels, height, width, dtype)
    return (floats if head is None else _sums(bits[0], head.shape[0], height, width)), words


def _conv_transpose2d_stream(
    bits, weight, affine, residual, threshold, out_channels, kernel_size, stride, padding, output_padding, dilation,
    pool=1, upsample=1, relu=False, size=None, dtype=None,
):  # fmt: skip
    height, width = _transposed_shape(
        _input_size(bits, size), kernel_size, stride, padding, output_padding, dilation
    )
    return _stream(bits[0], threshold, out_channels, height, width, dtype)


def _stream(
    bits: Tensor,
    threshold: Tensor | None,
    channels: int,
    height: int,
    width: int,
    dtype: torch.dtype | None = None,
):
    planes = 0 if threshold is None else threshold.shape[0]
    values = _sums(bits, channels, height, width, dtype=dtype or torch.float32)
    return values, _words(bits, height, width, planes * words_of(channels))


def _gemm(bits, weight, out_channels):
    return bits.new_empty((*bits.shape[:-1], out_channels), dtype=torch.float32)


def _gemm_threshold(bits, weight, threshold, flip, out_channels):
    words = threshold.shape[0] * words_of(out_channels)
    return bits.new_empty((*bits.shape[:-1], words), dtype=torch.int32)


def _stem_threshold(x, weight, threshold, flip, stride, padding, dilation):
    height, width = _conv_shape(x.shape[2:], weight.shape[1:3], stride, padding, dilation)
    return _words(x, height, width, threshold.shape[0] * words_of(threshold.shape[1]))


def _stem_stream(x, weight, affine, threshold, stride, padding, dilation, relu=False, dtype=None):
    height, width = _conv_shape(x.shape[2:], weight.shape[1:3], stride, padding, dilation)
    return _stream(x, threshold, affine.shape[2], height, width, dtype)


def _head_conv2d(x, weight, bias, padding):
    height, width = _conv_shape(x.shape[2:], weight.shape[1:3], (1, 1), padding, (1, 1))
    return _sums(x, weight.shape[0], height, width, dtype=torch.float32)


def _joined_head(x, weight, bias, gate):
    return _sums(x[0], weight.shape[0], *x[0].shape[2:], dtype=torch.float32)


def _upsample_bilinear2d(x, size, align_corners, scale_h=None, scale_w=None):
    return _sums(x, x.shape[1], *size)


def _attention(query, key, value, scale):
    return query.new_empty((*query.shape[:3], value.shape[3]))


def _max_pool2d(bits, kernel_size, stride, padding, dilation, ceil_mode):
    height, width = (
        pool_size(bits.shape[1 + i], kernel_size[i], stride[i], padding[i], dilation[i], ceil_mode)
        for i in range(2)
    )
    return _words(bits, height, width, bits.shape[3])


FAKES: dict[str, Callable[..., Tensor | tuple[Tensor, Tensor]]] = {
    "pack": _pack,
    "unpack": _unpack,
    "join_bits": _join_bits,
    "tile_weight": _tile_weight,
    "conv2d": _conv2d,
    "conv2d_threshold": _conv2d_threshold,
    "conv_transpose2d": _conv_transpose2d,
    "conv_transpose2d_threshold": _conv_transpose2d_threshold,
    "conv2d_stream": _conv2d_stream,
    "conv_transpose2d_stream": _conv_transpose2d_stream,
    "gemm": _gemm,
    "gemm_threshold": _gemm_threshold,
    "stem_threshold": _stem_threshold,
    "stem_stream": _stem_stream,
    "head_conv2d": _head_conv2d,
    "joined_head": _joined_head,
    "upsample_bilinear2d": _upsample_bilinear2d,
    "attention": _attention,
    "max_pool2d": _max_pool2d,
}

if _library.AVAILABLE:
    for _name, _fake in FAKES.items():
        torch.library.register_fake(f"mbu::{_name}", _fake)
