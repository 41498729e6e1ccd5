"""Builds kernels for the emulator: from their CUDA source with g++, or from their PTX translated to C++."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CSRC = ROOT / "ops" / "csrc"
EMULATOR = Path(__file__).parent / "emulator"
HOST = [*sorted(EMULATOR.glob("*.cpp")), CSRC / "cuda" / "plan.cpp", CSRC / "cuda" / "weight.cpp"]
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


def kernels() -> list[Kernel]:
    """Every kernel of ``ops/csrc/cuda/kernels.inc``."""
    text = (CSRC / "cuda" / "kernels.inc").read_text()
    pattern = r'^MBU_CUDA_KERNEL\((\w+), "([^"]+)", "([^"]+)", (\w+), (\d+), (\d+), \d+, \d+\)$'
    return [
        Kernel(name, file, tuple(architectures.split()), params, int(threads), int(shared))
        for name, file, architectures, params, threads, shared in re.findall(pattern, text, re.MULTILINE)
    ]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
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
    for name in ("emulate_conv2d",):
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_char_p
    return library


def ptx_of(source: Path, architecture: str, folder: Path) -> str:
    """What nvcc makes of a kernel file."""
    target = folder / f"{source.stem}.ptx"
    includes = [f"-I{CSRC}", f"-I{CSRC / 'include'}"]
    _run([str(NVCC), "-std=c++17", "-ptx", f"-arch=compute_{architecture}", *includes, str(source), "-o", str(target)])
    return target.read_text()
