"""Calls the kernels over flat lists on the emulator: tensors in, tensors out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from mbu_ops.fakes import conv_size, pool_size
from mbu_ops.packing import words_of

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
_I64, _PTR = ctypes.c_int64, ctypes.c_void_p


class _FlatCase(ctypes.Structure):
    """Mirrors FlatCase in emulator/flat_case.cpp."""

    _fields_ = [
        ("input", _PTR * 4),
        ("input_bytes", _I64 * 4),
        ("output", _PTR),
        ("output_bytes", _I64),
        ("number", _I64 * 32),
        ("backwards", _I64),
    ]


def _run(
    library, kernel: str, inputs: Sequence[Tensor | None], out: Tensor, numbers: Sequence[int]
) -> Tensor:
    case = _FlatCase()
    for i, tensor in enumerate(inputs):
        if tensor is not None:
            case.input[i] = tensor.data_ptr()
            used = tensor.untyped_storage().nbytes() - tensor.storage_offset() * tensor.element_size()
            case.input_bytes[i] = used
    case.output, case.output_bytes = out.data_ptr(), out.numel() * out.element_size()
    case.number[: len(numbers)] = numbers
    error = library.emulate_flat(kernel.encode(), ctypes.byref(case)).decode()
    if error:
        raise RuntimeError(f"{kernel}: {error}")
    return out


def _noise(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.full(shape, 77, dtype=dtype)


def pack(library, kernel: str, x: Tensor, threshold: Tensor | None, flip: Tensor | None) -> Tensor:
    n, c, h, w = x.shape
    planes = len(threshold) if threshold is not None and threshold.dim() == 2 else 1
    numbers = [n, h, w, _KINDS[x.dtype], c, planes, *x.stride()]
    return _run(library, kernel, [x, threshold, flip], _noise(n, h, w, planes * words_of(c)), numbers)


def unpack(library, kernel: str, bits: Tensor, channels: int) -> Tensor:
    n, h, w, _ = bits.shape
    out = _noise(n, h, w, channels, dtype=torch.float32)
    return _run(library, kernel, [bits], out, [n, h, w, channels, *bits.stride()[:3]]).permute(0, 3, 1, 2)


def join_bits(library, kernel: str, parts: Tensor, channels: Sequence[int]) -> Tensor:
    """``parts``: their words side by side, ``[N, H, W, words of all parts]``."""
    n, h, w, _ = parts.shape
    words = words_of(sum(channels))
    numbers = [n, h, w, words, len(channels), *parts.stride()[:3], *channels]
    return _run(library, kernel, [parts], _noise(n, h, w, words), numbers)


def max_pool2d(library, kernel: str, bits: Tensor, size, stride, padding, dilation, ceil_mode) -> Tensor:
    n, h, w, words = bits.shape
    sides = zip((h, w), size, stride, padding, dilation, strict=True)
    height, width = (pool_size(*side, ceil_mode) for side in sides)
    numbers = [n, height, width, words, h, w, *bits.stride()[:3], *size, *stride, *padding, *dilation]
    return _run(library, kernel, [bits], _noise(n, height, width, words), numbers)


def upsample(library, kernel: str, bits: Tensor, factors: tuple[int, int]) -> Tensor:
    n, h, w, words = bits.shape
    height, width = h * factors[0], w * factors[1]
    numbers = [n, height, width, words, *factors, *bits.stride()[:3]]
    return _run(library, kernel, [bits], _noise(n, height, width, words), numbers)


def stem(
    library,
    kernel: str,
    x: Tensor,
    weight: Tensor,
    threshold: Tensor,
    flip: Tensor,
    stride,
    padding,
    dilation,
):
    """``weight`` as in ``torch.nn.Conv2d``; the kernel reads output channels side by side."""
    n, c, h, w = x.shape
    oc, size = weight.shape[0], weight.shape[2:]
    sides = zip((h, w), size, stride, padding, dilation, strict=True)
    height, width = (conv_size(*side) for side in sides)
    planes = len(threshold)
    numbers = [
        n,
        height,
        width,
        _KINDS[x.dtype],
        c,
        h,
        w,
        *x.stride(),
        oc,
        *size,
        *stride,
        *padding,
        *dilation,
    ]
    inputs = [x, weight.permute(1, 2, 3, 0).contiguous(), threshold, flip]
    return _run(library, kernel, inputs, _noise(n, height, width, planes * words_of(oc)), [*numbers, planes])


def head(
    library, kernel: str, bits: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """``weight`` is ``[classes, channels]``."""
    n, h, w, _ = bits.shape
    classes, channels = weight.shape
    numbers = [n, h, w, channels, classes, *bits.stride()[:3], _KINDS[dtype]]
    out = _noise(n, h, w, classes, dtype=dtype)
    return _run(library, kernel, [bits, weight, bias], out, numbers).permute(0, 3, 1, 2)
