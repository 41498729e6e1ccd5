"""What `torch.ops.mbu` does on a GPU that no kernel of the library runs on: the same numbers by torch's own operations.

The library calls `torch.ops.mbu_fallback.*`, which have the arguments of `torch.ops.mbu.*`. Dot products are integers
up to 2**24, summed in float64: whatever algorithm a convolution uses, the result rounds to that integer in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _library, backends, reference
from .packing import WORD_BITS, words_of

# A weight's layout is its size modulo 8 (csrc/torch/cuda.cpp): DeviceLayout + 1, or 0 for planes as they are; and 4 more
# where no weight is zero.
_PLANES, _XOR_POPC, _AND_POPC, _INT8 = range(4)
# Float in any case: no packed layer is slow because of them.
_FLOAT = ("stem_threshold", "stem_stream", "head_conv2d", "joined_head", "upsample_bilinear2d", "attention")

reasons: dict[tuple[str, str], str] = {}
"""(operation, device) -> why no kernel of the library ran it there, the first time."""

_warned: set[str] = set()


def _recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which writes down why it was needed, and warns once for each device."""

    def run(*arguments: Any) -> Any:
        first = arguments[0]
        device = str((first if isinstance(first, Tensor) else first[0]).device)
        if (name, device) not in reasons:
            reasons[name, device] = backends.fallback_reason() or "not known"
        if name not in _FLOAT and device not in _warned:
            _warned.add(device)
            warnings.warn(
                f"mbu_ops: packed layers on {device} run as float operations of torch: right, but slow. The first is "
                f"{name}: {reasons[name, device]}. `mbu doctor` lists the reason for each.",
                RuntimeWarning,
                stacklevel=2,
            )
        return function(*arguments)

    return run


def store_planes(planes: Tensor) -> Tensor:
    """Planes as a weight: flat, filled up to a multiple of 8 words."""
    flat = planes.reshape(-1)
    return torch.cat([flat, flat.new_zeros(-flat.numel() % 8)])


def load_planes(weight: Tensor, out_channels: int, kernel_size: list[int], words: int) -> Tensor:
    """The planes of a weight in any layout for GPUs (csrc/cuda/weight.h), int32 `[2, OC, KH, KW, Cw]`.

    Raises:
        RuntimeError: its size fits no layout.
    """
    taps, padded = kernel_size[0] * kernel_size[1], words_of(out_channels) * WORD_BITS
    layout, size = weight.numel() % 4, weight.numel() // 8 * 8
    shape = (2, out_channels, *kernel_size, words)
    row = -(-taps * words // 8) * 8
    start = (2 * taps + 1) * padded
    sizes = {
        _PLANES: -(-2 * out_channels * taps * words // 8) * 8,
        _XOR_POPC: start + 2 * padded * row,
        _AND_POPC: start + 2 * padded * row,
        _INT8: start + taps * words * padded * 8,
    }
    if weight.dim() != 1 or size != sizes[layout]:
        raise RuntimeError(
            f"weight has shape {tuple(weight.shape)}, which is no layout of {out_channels} output channels, kernel "
            f"{kernel_size} and {words} channel words; tile the planes again on this device (PackedModel.tile_weights)"
        )
    if layout == _PLANES:
        return weight[: 2 * out_channels * taps * words].view(shape)
    if layout == _INT8:
        values = weight[start:size].view(torch.int8).view(taps * words, padded // 8, 8, 4, 2, 4)
        # [k, group, channel, lane t, register r, byte i] is input 2 t + r + 8 i.
        inputs = values.permute(1, 2, 0, 5, 3, 4).reshape(padded, taps * words, WORD_BITS)[:out_channels]
        shifts = torch.arange(WORD_BITS, device=weight.device)
        sign, mask = (((inputs == 1) << shifts).sum(-1), ((inputs != 0) << shifts).sum(-1))
        # Bit 31 of an int64 sum becomes the sign of the int32 word.
        return torch.stack([sign, mask]).to(torch.int32).view(shape)
    first, second = weight[start:size].view(2, padded, row)[:, :out_channels, : taps * words]
    pos, neg = (~second, first) if layout == _XOR_POPC else (first, second)
    return torch.stack([pos, pos | neg]).reshape(shape)


def _input(bits, weight, out_channels, kernel_size, size) -> tuple[Tensor, Tensor]:
    """The joined activations and the planes of a convolution."""
    joined = reference.join(bits, size)
    return joined, load_planes(weight, out_channels, kernel_size, joined.shape[3])


def _conv2d(bits, weight, out_channels, kernel_size, stride, padding, dilation, pad_value=0, size=None):
    joined, planes = _input(bits, weight, out_channels, kernel_size, size)
    return reference.conv2d(joined, planes, stride, padding, dilation, pad_value)


def _conv2d_threshold(
    bits, weight, threshold, flip, out_channels, kernel_size, stride, padding, dilation, pad_value=0, size=None
):  # fmt: skip
    joined, planes = _input(bits, weight, out_channels, kernel_size, size)
    return reference.conv2d_threshold(joined, planes, threshold, flip, stride, padding, dilation, pad_value)


def _conv_transpose2d(
    bits, weight, out_channels, kernel_size, stride, padding, output_padding, dilation, size=None
):
    joined, planes = _input(bits, weight, out_channels, kernel_size, size)
    return reference.conv_transpose2d(joined, planes, stride, padding, output_padding, dilation)


def _conv_transpose2d_threshold(
    bits, weight, threshold, flip, out_channels, kernel_size, stride, padding, output_padding, dilation, size=None
):  # fmt: skip
    joined, planes = _input(bits, weight, out_channels, kernel_size, size)
    return reference.conv_transpose2d_threshold(
        joined, planes, threshold, flip, stride, padding, output_padding, dilation
    )


def _conv2d_stream(
    bits, weight, affine, residual, threshold, out_channels, kernel_size, stride, padding, dilation,
    pad_value=0, pool=1, upsample=1, relu=False, size=None, head=None, head_bias=None, dtype=None,
):  # fmt: skip
    dots = _conv2d(bits, weight, out_channels, kernel_size, stride, padding, dilation, pad_value, size)
    y, words = reference.stream(
        dots, affine, residual, threshold, pool, upsample, relu, dtype or torch.float32
    )
    return (y if head is None else _head(y, head, head_bias)), words


def _head(y: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
    logits = F.linear(y.permute(0, 2, 3, 1), head, bias)
    return logits.permute(0, 3, 1, 2)


def _conv_transpose2d_stream(
    bits, weight, affine, residual, threshold, out_channels, kernel_size, stride, padding, output_padding, dilation,
    pool=1, upsample=1, relu=False, size=None, dtype=None,
):  # fmt: skip
    dots = _conv_transpose2d(
        bits, weight, out_channels, kernel_size, stride, padding, output_padding, dilation, size
    )
    return reference.stream(dots, affine, residual, threshold, pool, upsample, relu, dtype or torch.float32)


def _gemm(bits, weight, out_channels):
    return reference.gemm(bits, load_planes(weight, out_channels, [1, 1], bits.shape[-1]))


def _gemm_threshold(bits, weight, threshold, flip, out_channels):
    planes = load_planes(weight, out_channels, [1, 1], bits.shape[-1])
    return reference.gemm_threshold(bits, planes, threshold, flip)


def _stem(x: Tensor, weight: Tensor, channels: int, stride, padding, dilation) -> Tensor:
    """The first convolution in float32; its weight is `[OCw, KH, KW, C, 32]`."""
    plain = weight.permute(0, 4, 3, 1, 2).flatten(0, 1)[:channels]
    return F.conv2d(x, plain, None, stride, padding, dilation)


def _stem_threshold(x, weight, threshold, flip, stride, padding, dilation):
    sums = _stem(x, weight, threshold.shape[1], stride, padding, dilation)
    return torch.cat([reference.pack(sums, row, f) for row, f in zip(threshold, flip, strict=True)], -1)


def _stem_stream(x, weight, affine, threshold, stride, padding, dilation, relu=False, dtype=None):
    sums = _stem(x, weight, affine.shape[2], stride, padding, dilation)
    return reference.stream(sums, affine, (), threshold, relu=relu, dtype=dtype or torch.float32)


def _head_conv2d(x, weight, bias, padding):
    result = F.conv2d(x, weight.permute(0, 3, 1, 2), bias, 1, padding)
    return result.contiguous(memory_format=torch.channels_last)


def _joined_head(x, weight, bias, gate):
    joined = torch.cat(list(x), 1)
    result = F.conv2d(joined if gate is None else joined * gate, weight[..., None, None], bias)
    return result.contiguous(memory_format=torch.channels_last)


def _upsample_bilinear2d(x, size, align_corners, scale_h=None, scale_w=None):
    result = torch.ops.aten.upsample_bilinear2d.default(x, size, align_corners, scale_h, scale_w)
    return result.contiguous(memory_format=torch.channels_last)


def _attention(query, key, value, scale):
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


FALLBACKS: dict[str, Callable[..., Tensor | tuple[Tensor, Tensor]]] = {
    "pack": reference.pack,
    "unpack": reference.unpack,
    "join_bits": reference.join_bits,
    "tile_weight": store_planes,
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
    "max_pool2d": reference.max_pool2d,
}

if _library.AVAILABLE:
    for _name, _function in FALLBACKS.items():
        _schema = str(getattr(torch.ops.mbu, _name).default._schema).replace("mbu::", "mbu_fallback::", 1)
        torch.library.define(_schema.partition("(")[0], "(" + _schema.partition("(")[2])
        torch.library.impl(
            _schema.partition("(")[0], "CompositeExplicitAutograd", _recorded(_name, _function)
        )
