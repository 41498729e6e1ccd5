"""Random convolutions: their tensors, the expected result from ``mbu_ops.reference``, and the emulator's."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mbu_ops import reference
from mbu_ops.fakes import conv_size, transposed_size
from mbu_ops.packing import pack_bits, pack_weight, words_of

_LIMITS = torch.iinfo(torch.int32)
_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
_I64, _PTR = ctypes.c_int64, ctypes.c_void_p


class _Residual(ctypes.Structure):
    _fields_ = [("data", _PTR)] + [
        (name, _I64) for name in ("bytes", "kind", "channels", "stride_n", "stride_c", "stride_h", "stride_w")
    ]


class _ConvCase(ctypes.Structure):
    """Mirrors ConvCase in emulator/conv2d_case.cpp."""

    _fields_ = [
        *((name, _I64) for name in ("batch", "height", "width")),
        *(
            (name, _I64 * 2)
            for name in ("words", "pixel", "upsample", "kernel", "stride", "padding", "dilation")
        ),
        ("output", _I64 * 2),
        *((name, _I64) for name in ("out_channels", "transposed", "zero_padding", "planes")),
        ("source", _PTR * 2),
        *((name, _PTR) for name in ("weight", "threshold", "flip", "bits", "stream")),
        *((name, _I64) for name in ("stream_kind", "steps")),
        ("affine", _PTR),
        *((name, _I64) for name in ("residuals", "residual_channels", "pool", "residual_upsample", "relu")),
        ("residual", _Residual * 6),
        ("classes", _I64),
        *((name, _PTR) for name in ("head", "head_bias", "logits")),
        *((name, _I64) for name in ("late_copies", "warps_backwards")),
    ]


@dataclass
class Conv:
    """A layer. ``channels`` has one entry per source, ``upsample`` a factor for each; ``gap`` words lie between
    pixels; of four weights ``zeros`` are zero."""

    size: tuple[int, int]
    channels: tuple[int, ...]
    out_channels: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    extra: tuple[int, int] = (0, 0)
    upsample: tuple[int, ...] = (1,)
    batch: int = 1
    transposed: bool = False
    pad_value: int = 0
    planes: int = 1
    zeros: int = 1
    gap: int = 0

    def output(self) -> tuple[int, int]:
        sides = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, self.extra, strict=True)
        if self.transposed:
            height, width = (transposed_size(n, k, s, p, e, d) for n, k, s, p, d, e in sides)
        else:
            height, width = (conv_size(n, k, s, p, d) for n, k, s, p, d, _ in sides)
        return height, width


# With w the words that a kernel reads at a time.
LAYERS = {
    "3x3": lambda w: Conv((6, 5), (32 * w,), 40),
    "tail channels": lambda w: Conv((4, 9), (32 * w - 5,), 33, gap=w),
    "one pixel": lambda w: Conv((1, 1), (32 * w,), 5),
    "ring of -1": lambda w: Conv((5, 4), (64 * w,), 32, pad_value=-1, planes=2),
    "stride and dilation": lambda w: Conv(
        (7, 9), (32 * w,), 70, stride=(2, 1), padding=(0, 2), dilation=(2, 1), batch=2
    ),
    "wide padding": lambda w: Conv((3, 2), (32 * w,), 9, kernel=(5, 2), padding=(4, 3), dilation=(1, 2)),
    "1x1, many channels": lambda w: Conv((9, 16), (288 * w,), 65, kernel=(1, 1), padding=(0, 0), zeros=3),
    "concat with upsampling": lambda w: Conv((8, 6), (32 * w, 64 * w), 65, upsample=(2, 1), planes=2),
    "transposed 2x2": lambda w: Conv(
        (5, 6), (32 * w,), 33, kernel=(2, 2), stride=(2, 2), padding=(0, 0), transposed=True, batch=2
    ),
    "transposed, ragged": lambda w: Conv(
        (4, 4),
        (32 * w - 5,),
        32,
        stride=(3, 2),
        padding=(1, 0),
        dilation=(2, 1),
        extra=(1, 1),
        transposed=True,
    ),
    "transposed, no taps": lambda w: Conv(
        (3, 2), (32 * w,), 32, kernel=(1, 2), stride=(2, 3), padding=(0, 0), transposed=True
    ),
    "all weights zero": lambda w: Conv((3, 3), (32 * w,), 32, zeros=4),
    "no zeros": lambda w: Conv((5, 6), (32 * w, 64 * w), 40, upsample=(1, 1), zeros=0),
    "no zeros, transposed": lambda w: Conv(
        (3, 5), (32 * w,), 33, stride=(2, 2), padding=(1, 0), extra=(1, 0), transposed=True, zeros=0
    ),
}


@dataclass
class Stream:
    """The float epilogue of a case; ``residual`` holds tensors [N, C, H, W] of any strides and float dtype, ``head`` is
    [classes, OC]."""

    affine: Tensor
    residual: list[Tensor] = field(default_factory=list)
    threshold: Tensor | None = None
    pool: int = 1
    upsample: int = 1
    relu: bool = False
    dtype: torch.dtype = torch.float32
    head: Tensor | None = None
    head_bias: Tensor | None = None


class Problem:
    """Tensors of a layer, and its dot products ``[N, OC, OH, OW]``."""

    def __init__(self, conv: Conv, seed: int):
        self.conv, self.random = conv, torch.Generator().manual_seed(seed)
        c = conv
        self.sources = []
        for channels, factor in zip(c.channels, c.upsample, strict=True):
            shape = (c.batch, c.size[0] // factor, c.size[1] // factor)
            words = words_of(channels)
            padded = torch.randint(_LIMITS.min, _LIMITS.max, (*shape, words + c.gap), generator=self.random)
            padded = padded.to(torch.int32)
            padded[..., :words] = pack_bits(torch.rand((*shape, channels), generator=self.random) < 0.5)
            self.sources.append(padded)
        weight = torch.randint(0, 4, (c.out_channels, sum(c.channels), *c.kernel), generator=self.random)
        weight = torch.where(weight < c.zeros, 0, (weight & 1) * 2 - 1)
        self.weight = pack_weight(weight, segments=c.channels)
        image = torch.cat(
            [
                s[..., : words_of(n)].repeat_interleave(f, 1).repeat_interleave(f, 2)
                for s, n, f in zip(self.sources, c.channels, c.upsample, strict=True)
            ],
            -1,
        )
        if c.transposed:
            self.dots = reference.conv_transpose2d(
                image, self.weight, c.stride, c.padding, c.extra, c.dilation
            )
        else:
            self.dots = reference.conv2d(image, self.weight, c.stride, c.padding, c.dilation, c.pad_value)

    def thresholds(self) -> tuple[Tensor, Tensor]:
        """Thresholds that some dot products meet exactly, just miss, or never reach; and flips."""
        c = self.conv
        flat = self.dots.permute(0, 2, 3, 1).reshape(-1, c.out_channels)
        pick = torch.randint(0, len(flat), (c.planes, c.out_channels), generator=self.random)
        threshold = flat[pick, torch.arange(c.out_channels)].to(torch.int32)
        threshold += torch.randint(0, 2, threshold.shape, generator=self.random, dtype=torch.int32)
        threshold[torch.rand(threshold.shape, generator=self.random) < 0.03] = _LIMITS.max
        threshold[torch.rand(threshold.shape, generator=self.random) < 0.03] = _LIMITS.min
        words = (c.planes, words_of(c.out_channels))
        flip = torch.randint(_LIMITS.min, _LIMITS.max, words, generator=self.random).to(torch.int32)
        return threshold, flip

    def _case(self, late: bool, backwards: bool) -> _ConvCase:
        c, case = self.conv, _ConvCase()
        case.batch, case.height, case.width = c.batch, *c.size
        for i, source in enumerate(self.sources):
            case.source[i] = source.data_ptr()
            case.words[i], case.pixel[i] = words_of(c.channels[i]), source.shape[-1]
            case.upsample[i] = c.upsample[i]
        for name in ("kernel", "stride", "padding", "dilation"):
            getattr(case, name)[:] = getattr(c, name)
        case.output[:] = c.output()
        case.out_channels, case.transposed = c.out_channels, c.transposed
        case.zero_padding = c.transposed or c.pad_value == 0
        case.weight = self.weight.data_ptr()
        case.late_copies, case.warps_backwards = late, backwards
        return case

    def _noise(self, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.full(shape, 77, dtype=dtype)

    def bits(
        self, library, kernel: str, threshold: Tensor, flip: Tensor, late=True, backwards=False
    ) -> Tensor:
        """The emulated kernel's packed output; raises what the emulator found wrong."""
        case = self._case(late, backwards)
        out = self._noise(self.conv.batch, *self.conv.output(), len(threshold) * flip.shape[1])
        case.planes, case.bits = len(threshold), out.data_ptr()
        case.threshold, case.flip = threshold.data_ptr(), flip.data_ptr()
        _call(library.emulate_conv2d, kernel, case)
        return out

    def stream(self, library, kernel: str, s: Stream, late=True, backwards=False) -> tuple[Tensor, Tensor]:
        """The emulated kernel's float output ``[N, OC, OH, OW]`` and bits."""
        c, case = self.conv, self._stream_case(s, late, backwards)
        out = self._noise(c.batch, *c.output(), c.out_channels, dtype=s.dtype)
        case.stream = out.data_ptr()
        planes = 0 if s.threshold is None else len(s.threshold)
        bits = self._noise(c.batch, *c.output(), planes * words_of(c.out_channels))
        case.planes = planes
        if s.threshold is not None:
            case.bits, case.threshold = bits.data_ptr(), s.threshold.data_ptr()
        _call(library.emulate_conv2d, kernel, case)
        return out.permute(0, 3, 1, 2), bits

    def logits(self, library, kernel: str, s: Stream, late=True, backwards=False) -> Tensor:
        """What the emulated kernel's head makes of the stream, ``[N, classes, OH, OW]``."""
        assert s.head is not None
        c, case = self.conv, self._stream_case(s, late, backwards)
        out = self._noise(c.batch, *c.output(), len(s.head), dtype=torch.float32)
        case.classes, case.head, case.logits = len(s.head), s.head.data_ptr(), out.data_ptr()
        if s.head_bias is not None:
            case.head_bias = s.head_bias.data_ptr()
        _call(library.emulate_conv2d, kernel, case)
        return out.permute(0, 3, 1, 2)

    def _stream_case(self, s: Stream, late: bool, backwards: bool) -> _ConvCase:
        case = self._case(late, backwards)
        case.stream_kind, case.relu = _KINDS[s.dtype], s.relu
        case.steps, case.affine = len(s.affine), s.affine.data_ptr()
        case.residuals, case.residual_channels = len(s.residual), sum(r.shape[1] for r in s.residual)
        case.pool, case.residual_upsample = s.pool, s.upsample
        for i, r in enumerate(s.residual):
            size = r.untyped_storage().nbytes() - r.storage_offset() * r.element_size()
            case.residual[i] = _Residual(r.data_ptr(), size, _KINDS[r.dtype], r.shape[1], *r.stride())
        return case

    def expected_stream(self, s: Stream) -> tuple[Tensor, Tensor]:
        """The same from ``mbu_ops.reference``; bits are those of the values as they are stored."""
        return reference.stream(
            self.dots, s.affine, s.residual, s.threshold, s.pool, s.upsample, s.relu, s.dtype
        )


def _call(function, kernel: str, case: ctypes.Structure) -> None:
    error = function(kernel.encode(), ctypes.byref(case)).decode()
    if error:
        raise RuntimeError(f"{kernel}: {error}")
