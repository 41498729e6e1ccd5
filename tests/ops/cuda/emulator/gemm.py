"""Random matrix products of packed rows: their tensors, and what the emulator makes of them."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from mbu_ops.packing import pack_bits, pack_weight, words_of

from .cases import _call

_LIMITS = torch.iinfo(torch.int32)
_I64, _PTR = ctypes.c_int64, ctypes.c_void_p


class _GemmCase(ctypes.Structure):
    """Mirrors GemmCase in gemm_case.cpp."""

    _fields_ = [
        *((name, _I64) for name in ("rows", "words", "stride", "out_channels", "planes")),
        *((name, _PTR) for name in ("input", "weight", "threshold", "flip", "bits", "sums")),
        *((name, _I64) for name in ("late_copies", "warps_backwards")),
    ]


class Product:
    """``rows`` x ``channels`` times ``channels`` x ``out_channels``; ``gap`` words lie between rows, ``planes`` bits
    are taken of each sum, of four weights ``zeros`` are zero."""

    def __init__(
        self,
        rows: int,
        channels: int,
        out_channels: int,
        gap: int = 0,
        planes: int = 1,
        zeros: int = 1,
        seed: int = 0,
    ):
        random = torch.Generator().manual_seed(seed)
        self.rows, self.words, self.out_channels, self.planes = rows, words_of(channels), out_channels, planes
        self.memory = torch.randint(_LIMITS.min, _LIMITS.max, (rows, self.words + gap), generator=random).to(
            torch.int32
        )
        bits = torch.rand(rows, channels, generator=random) < 0.5
        self.memory[:, : self.words] = pack_bits(bits)
        weight = torch.randint(0, 4, (out_channels, channels), generator=random)
        weight = torch.where(weight < zeros, 0, (weight & 1) * 2 - 1)
        self.weight = pack_weight(weight[:, :, None, None])
        self.dots = (bits.double() * 2 - 1) @ weight.double().T
        pick = torch.randint(0, rows, (planes, out_channels), generator=random)
        self.threshold = self.dots[pick, torch.arange(out_channels)].int()
        self.threshold += torch.randint(0, 2, (planes, out_channels), generator=random, dtype=torch.int32)
        self.flip_bits = torch.rand(planes, out_channels, generator=random) < 0.5

    def expected_bits(self) -> Tensor:
        """int32 ``[rows, planes * words]``."""
        rows = zip(self.threshold, self.flip_bits, strict=True)
        return torch.cat([pack_bits((self.dots >= limit) ^ flip) for limit, flip in rows], -1)

    def run(self, library, kernel: str, to_bits: bool, late: bool = True, backwards: bool = False) -> Tensor:
        """The emulated kernel's bits or sums; raises what the emulator found wrong."""
        case = _GemmCase(self.rows, self.words, self.memory.shape[1], self.out_channels, self.planes)
        case.late_copies, case.warps_backwards = late, backwards
        # Bits beyond the last channel may hold anything.
        flip = pack_bits(self.flip_bits) | ~pack_bits(torch.ones_like(self.flip_bits))
        case.input, case.weight = self.memory.data_ptr(), self.weight.data_ptr()
        case.threshold, case.flip = self.threshold.data_ptr(), flip.data_ptr()
        if to_bits:
            out = torch.full((self.rows, self.planes * words_of(self.out_channels)), 77, dtype=torch.int32)
            case.bits = out.data_ptr()
        else:
            out = torch.full((self.rows, self.out_channels), 77.0)
            case.sums = out.data_ptr()
        _call(library.emulate_gemm, kernel, case)
        return out
