"""Writes the b1 products of CUTLASS that `kernels.inc` names: `gemm/{gemm,wide_conv2d}_<rows>x<channels>__<form>.cu`.

`cutlass_library` (of the `nvidia-cutlass` wheel) describes a product and emits its type; what the kernel does with both
planes of a weight, before and behind the product, is ours (`gemm/gemm.h`, `gemm/wide_conv2d.h`). CMake calls this file before it compiles; where the
wheel is absent, the library is built without these kernels and says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_K_TILE = 512  # bits of K in a stage: the smallest for which CUTLASS has shared-memory layouts
_WARP_CHANNELS = 32
_ALIGNMENT = 128  # bits: copies of 16 bytes


@dataclass(frozen=True)
class Form:
    """One tensor-core instruction: its shape, product, CUTLASS's name for the architecture, and where it is native."""

    shape: tuple[int, int, int]
    operation: str
    capability: int
    guard: str  # true where a file may not be compiled
    why: str


FORMS = {
    "sm75_xor": Form((8, 8, 128), "xor_popc", 75, "__CUDA_ARCH__ != 750", "b1 m8n8k128 is meant for sm_75"),
    "sm80_xor": Form(
        (16, 8, 256), "xor_popc", 80, "__CUDA_ARCH__ < 800 || __CUDA_ARCH__ >= 900",
        "b1 xor.popc of m16n8k256 is native on sm_80 to sm_89; CUTLASS would be silently wrong on later ones",
    ),
    # The template for sm_80; only the product differs.
    "sm90_and": Form((16, 8, 256), "and_popc", 80, "__CUDA_ARCH__ != 900", "b1 and.popc is native on sm_90"),
}  # fmt: skip


def stages(form: Form, rows: int) -> int:
    """Steps of K in shared memory: two where copies go through registers; else what 48 KB hold, at most four."""
    return 2 if form.capability < 80 else 4 if rows < 128 else 3


def cutlass_headers() -> Path | None:
    """The include folder of the wheel; None where it is not installed.

    Under pip's build isolation the interpreter's own packages are hidden, see `ops/torch_headers.py`.
    """
    own = sysconfig.get_path("purelib")
    if importlib.util.find_spec("cutlass_library") is None and own not in sys.path:
        sys.path.append(own)
    found = importlib.util.find_spec("cutlass_library")
    if found is None or found.origin is None:
        return None
    include = Path(found.origin).parent / "source" / "include"
    return include if (include / "cutlass" / "cutlass.h").is_file() else None


def _product(rows: int, channels: int, form: Form) -> Any:
    """CUTLASS's description of the product of one plane: rows x K bits times K bits x channels, int32 sums."""
    from cutlass_library import gemm_operation, library

    operation = getattr(library.MathOperation, form.operation)
    bits, sums = library.DataType.b1, library.DataType.s32
    instruction = library.MathInstruction(
        list(form.shape), bits, bits, sums, library.OpcodeClass.TensorOp, operation
    )
    warps = [2, channels // _WARP_CHANNELS, 1]
    tile = library.TileDescription(
        [rows, channels, _K_TILE], stages(form, rows), warps, instruction, form.capability, form.capability
    )
    # The emitter swaps the operands, so that sums come out one row of channels after another.
    row, column = library.LayoutType.RowMajor, library.LayoutType.ColumnMajor
    return gemm_operation.GemmOperation(
        library.GemmKind.Universal, form.capability, tile, library.TensorDescription(bits, row, _ALIGNMENT),
        library.TensorDescription(bits, column, _ALIGNMENT), library.TensorDescription(sums, column, 4), sums,
        library.EpilogueFunctor.LinearCombination, library.SwizzlingFunctor.Identity1,
    )  # fmt: skip


def source(stem: str) -> str:
    """The text of the file `stem`.cu.

    Raises:
        ValueError: a name that says no tile and form, or a tile that warps of 32 channels do not fill.
    """
    match = re.fullmatch(r"gemm/((gemm|wide_conv2d)_(\d+)x(\d+))__(\w+)", stem)
    if match is None or match[5] not in FORMS:
        raise ValueError(
            f"{stem} is no product to generate; write gemm/<gemm|wide_conv2d>_<rows>x<channels>__<{'|'.join(FORMS)}>"
        )
    tile, kind, rows, channels, form = match[1], match[2], int(match[3]), int(match[4]), FORMS[match[5]]
    if rows % 32 or channels % _WARP_CHANNELS:
        raise ValueError(f"{stem}: a tile of {rows} x {channels} must have multiples of 32 rows and channels")
    from cutlass_library import gemm_operation

    operation = _product(rows, channels, form)
    threads = 64 * channels // _WARP_CHANNELS
    shared = stages(form, rows) * (rows + channels) * _K_TILE // 8
    product = f"{operation.procedural_name()}::Mma, {str(form.operation == 'xor_popc').lower()}"
    if kind == "gemm":
        calls = [f"MBU_GEMM({tile}__{match[5]}, {product}, {threads}, {shared})"]
    else:
        # A stream lays out sums of 4 bytes, rows 8 apart from each other (conv2d/tile.h).
        laid_out = max(shared, 4 * rows * (channels + 8))
        calls = [
            f"MBU_WIDE_CONV2D({tile}_{epilogue}__{match[5]}, {product}, To{epilogue.title()}, {threads}, {size})"
            for epilogue, size in (("bits", shared), ("stream", laid_out))
        ]
    return "\n".join([
        "// Written by csrc/cuda/generate.py with cutlass_library.",
        f'#include "cuda/gemm/{kind}.h"', "",
        f"#if defined(__CUDA_ARCH__) && ({form.guard})", f'#error "{form.why}"', "#endif",
        gemm_operation.EmitGemmUniversalInstance().emit(operation),
        *calls, "",
    ])  # fmt: skip


def write(folder: Path, stems: list[str]) -> None:
    """Writes each file below `folder`; an unchanged one keeps its time stamp, so that it is not compiled again."""
    for stem in stems:
        text, path = source(stem), folder / f"{stem}.cu"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def main() -> int:
    """Writes the files that the command line names and prints CUTLASS's include folder; nothing where it is absent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("stems", nargs="*")
    options = parser.parse_args()
    include = cutlass_headers()
    if include is not None:
        write(options.folder, options.stems)
        print(include)
    return 0


if __name__ == "__main__":
    sys.exit(main())
