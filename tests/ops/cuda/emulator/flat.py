"""Calls the kernels over flat lists on the emulator: tensors in, tensors out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from mbu_ops.fakes import conv_size, pool_size
from mbu_ops.packing import words_of
from mbu_ops.stem import tile_stem_weight

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
_I64, _PTR = ctypes.c_int64, ctypes.c_void_p


class _FlatCase(ctypes.Structure):
    """Mirrors FlatCase in emulator/flat_case.cpp."""

    _fields_ = [
        ("input", _PTR * 5),
        ("input_bytes", _I64 * 5),
        ("output", _PTR * 2),
        ("output_bytes", _I64 * 2),
        ("number", _I64 * 64),
        ("backwards", _I64),
    ]


def _run(
    library, kernel: str, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor], numbers: Sequence[int]
) -> None:
    case = _FlatCase()
    for i, tensor in enumerate(inputs):
        if tensor is not None:
            case.input[i] = tensor.data_ptr()
            used = tensor.untyped_storage().nbytes() - tensor.storage_offset() * tensor.element_size()
            case.input_bytes[i] = used
    for i, out in enumerate(outputs):
        if out.numel():
            case.output[i], case.output_bytes[i] = out.data_ptr(), out.numel() * out.element_size()
    case.number[: len(numbers)] = numbers
    error = library.emulate_flat(kernel.encode(), ctypes.byref(case)).decode()
    if error:
        raise RuntimeError(f"{kernel}: {error}")


def _noise(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.full(shape, 77, dtype=dtype)


def pack(
    library, kernel: str, x: Tensor, threshold: Tensor | None, flip: Tensor | None, gate: Tensor | None = None
) -> Tensor:
    n, c, h, w = x.shape
    planes = len(threshold) if threshold is not None and threshold.dim() == 2 else 1
    numbers = [n, h, w, _KINDS[x.dtype], c, planes, *x.stride()]
    out = _noise(n, h, w, planes * words_of(c))
    _run(library, kernel, [x, threshold, flip, gate], [out], numbers)
    return out


def unpack(library, kernel: str, bits: Tensor, channels: int) -> Tensor:
    n, h, w, _ = bits.shape
    out = _noise(n, h, w, channels, dtype=torch.float32)
    _run(library, kernel, [bits], [out], [n, h, w, channels, *bits.stride()[:3]])
    return out.permute(0, 3, 1, 2)


def join_bits(
    library,
    kernel: str,
    parts: Tensor,
    channels: Sequence[int],
    sizes: Sequence[tuple[int, int]] | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """``parts``: their words side by side, ``[N, H, W, words of all parts]``; ``sizes``: of each the upper left corner,
    brought to ``size``."""
    n, (h, w) = len(parts), size or parts.shape[1:3]
    words = words_of(sum(channels))
    corners = zip(channels, sizes or [(h, w)] * len(channels), strict=True)
    numbers = [n, h, w, words, len(channels), *parts.stride()[:3]]
    numbers += [number for count, corner in corners for number in (count, *corner)]
    out = _noise(n, h, w, words)
    _run(library, kernel, [parts], [out], numbers)
    return out


def max_pool2d(library, kernel: str, bits: Tensor, size, stride, padding, dilation, ceil_mode) -> Tensor:
    n, h, w, words = bits.shape
    sides = zip((h, w), size, stride, padding, dilation, strict=True)
    height, width = (pool_size(*side, ceil_mode) for side in sides)
    numbers = [n, height, width, words, h, w, *bits.stride()[:3], *size, *stride, *padding, *dilation]
    out = _noise(n, height, width, words)
    _run(library, kernel, [bits], [out], numbers)
    return out


def stem(
    library,
    kernel: str,
    x: Tensor,
    weight: Tensor,
    affine: Tensor | None,
    threshold: Tensor | None,
    flip: Tensor | None,
    stride,
    padding,
    dilation,
    relu: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The stream ``[N, OC, OH, OW]``, empty without a ``dtype``, and bits; ``weight`` as in ``torch.nn.Conv2d``."""
    n, c, h, w = x.shape
    oc, size = weight.shape[0], weight.shape[2:]
    sides = zip((h, w), size, stride, padding, dilation, strict=True)
    height, width = (conv_size(*side) for side in sides)
    planes, steps = (0 if rows is None else len(rows) for rows in (threshold, affine))
    bits = _noise(n, height, width, planes * words_of(oc))
    y = _noise(n, height, width, oc if dtype else 0, dtype=dtype or torch.float32)
    geometry = [*size, *stride, *padding, *dilation]
    numbers = [n, height, width, c, h, w, *x.stride(), oc, *geometry, planes, steps, relu, _KINDS[y.dtype]]
    _run(library, kernel, [x, tile_stem_weight(weight), affine, threshold, flip], [bits, y], numbers)
    return y.permute(0, 3, 1, 2), bits
