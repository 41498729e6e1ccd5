"""Builds kernels for the emulator: from their CUDA source with g++, or from their PTX translated to C++."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from . import translate

ROOT = Path(__file__).resolve().parents[4]
CSRC = ROOT / "ops" / "csrc"
EMULATOR = Path(__file__).parent
HOST = [
    *sorted(EMULATOR.glob("*.cpp")),
    *(CSRC / "cuda" / f"{name}.cpp" for name in ("plan", "plan_flat", "plan_gemm", "weight")),
]
COMPILER = shutil.which("g++")
NVCC = shutil.which("nvcc")
# Kernels may not multiply and add in one rounding unless they say so; neither may their emulation.
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-march=native", "-ffp-contract=off", "-Wno-unknown-pragmas"]


@dataclass(frozen=True)
class Kernel:
    """A line of kernels.inc."""

    name: str
    file: str
    architectures: tuple[str, ...]
    params: str
    threads: int
    shared_bytes: int

    @property
    def source(self) -> Path:
        return CSRC / "cuda" / f"{self.file}.cu"

    @property
    def generated(self) -> bool:
        """Whether csrc/cuda/generate.py writes its source: C++ for nvcc alone, so that only its PTX is run."""
        return self.file.startswith("gemm/")


def kernels() -> list[Kernel]:
    """Every kernel of ``ops/csrc/cuda/kernels.inc``."""
    text = (CSRC / "cuda" / "kernels.inc").read_text()
    pattern = r'^MBU_CUDA_KERNEL\((\w+), "([^"]+)", "([^"]+)", (\w+), (\d+), (\d+), \d+, \d+\)$'
    return [
        Kernel(name, file, tuple(architectures.split()), params, int(threads), int(shared))
        for name, file, architectures, params, threads, shared in re.findall(pattern, text, re.MULTILINE)
    ]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-4000:]}")


def compile_all(sources: list[Path], folder: Path, csrc: Path = CSRC) -> list[Path]:
    """Object files of C++ and CUDA sources, two compilers at a time."""
    # The emulator's cuda/ptx.h stands in for the real one.
    includes = [f"-I{EMULATOR}", f"-I{csrc}", f"-I{csrc / 'include'}"]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        _run([str(COMPILER), *FLAGS, *includes, "-x", "c++", "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, sources))


def link(objects: list[Path], target: Path) -> ctypes.CDLL:
    """One library; kernels that no object defines are unknown to it."""
    _run([str(COMPILER), "-shared", *map(str, objects), "-o", str(target)])
    library = ctypes.CDLL(str(target))
    for name in ("emulate_conv2d", "emulate_flat", "emulate_gemm"):
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_char_p
    return library


# PTX is slower to make than C++ to compile, so one tile of each convolution form stands for the others: the
# source of every one is run too.
PTX_FILES = (
    "conv2d/conv2d_128x64__sm80_xor",
    "conv2d/conv2d_32x32__sm75_xor",
    "conv2d/conv2d_32x32__sm80_int8",
    "conv2d/conv2d_32x32__sm90_and",
    "join_bits/join_bits__sm75",
    "max_pool2d/max_pool2d__sm75",
    "pack/pack__sm75",
    "stem/stem__sm75",
    "unpack/unpack__sm75",
)
GENERATED_FILES = (
    *(
        f"gemm/gemm_{tile}__{form}"
        for tile in ("128x128", "128x64", "64x64")
        for form in ("sm75_xor", "sm80_xor", "sm90_and")
    ),
    "gemm/wide_conv2d_128x64__sm80_xor",
    "gemm/wide_conv2d_128x64__sm75_xor",
    "gemm/wide_conv2d_128x64__sm90_and",
)


def generator() -> ModuleType:
    """``ops/csrc/cuda/generate.py``."""
    spec = importlib.util.spec_from_file_location("mbu_generate", CSRC / "cuda" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def translate_all(files: Sequence[str], folder: Path) -> list[Path]:
    """C++ made from the PTX of kernel files, each for the first architecture of its line in kernels.inc."""
    lines = {kernel.name: kernel for kernel in kernels()}
    tools = generator()
    headers = tools.cutlass_headers()

    def translate_one(file: str) -> Path:
        kernel = next(kernel for kernel in lines.values() if kernel.file == file)
        ptx, target = folder / f"{kernel.source.stem}.ptx", folder / f"{kernel.source.stem}.cpp"
        architecture = f"-arch=compute_{kernel.architectures[0]}"
        includes, source = [f"-I{CSRC}", f"-I{CSRC / 'include'}"], kernel.source
        if kernel.generated:
            tools.write(folder, [kernel.file])
            includes += [f"-I{headers}", "-diag-suppress=20013,20015"]
            source = folder / f"{kernel.file}.cu"
        _run([str(NVCC), "-std=c++17", "-ptx", architecture, *includes, str(source), "-o", str(ptx)])
        bodies = translate.entries(ptx.read_text())
        functions = [translate.translate(name, body, lines[name].params) for name, body in bodies.items()]
        target.write_text(translate.PROLOGUE + "".join(functions))
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(translate_one, files))
