"""Which kernels the compiled library holds, which of them this machine runs, and which one is in use.

The environment variable ``MBU_CPU_KERNEL`` names a kernel to use instead of the best available one.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import _library

_MESSAGE_BYTES = 512


@dataclass(frozen=True)
class CpuKernel:
    """One line of ``csrc/cpu/kernels.inc``.

    Attributes:
        name: the name that ``MBU_CPU_KERNEL`` and :func:`use_cpu_kernel` take.
        isa: instruction sets it needs.
        layout: of the weights it reads, a name of ``WeightLayout`` in ``csrc/include/mbu/types.h``.
        available: whether processor and operating system offer them.
        selected: whether calls use it now.
    """

    name: str
    isa: str
    layout: str
    available: bool
    selected: bool


def library_path() -> Path:
    """Path of the compiled library.

    Raises:
        RuntimeError: if this install has no kernels.
    """
    return Path(str(_library.require().__file__))


@functools.cache
def _library_functions() -> ctypes.CDLL:
    library = ctypes.CDLL(str(library_path()))
    library.mbu_cpu_kernel_name.restype = ctypes.c_char_p
    library.mbu_cpu_kernel_isa.restype = ctypes.c_char_p
    library.mbu_cpu_kernel_layout.restype = ctypes.c_char_p
    library.mbu_cpu_kernel_selected.restype = ctypes.c_char_p
    library.mbu_fallback_reason.restype = ctypes.c_char_p
    return library


def _selected_name() -> str:
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    name = _library_functions().mbu_cpu_kernel_selected(message, _MESSAGE_BYTES)
    if name is None:
        raise RuntimeError(message.value.decode())
    return name.decode()


def _force(name: str) -> None:
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    if _library_functions().mbu_cpu_kernel_force(name.encode(), message, _MESSAGE_BYTES):
        raise RuntimeError(message.value.decode())


def cpu_kernels() -> list[CpuKernel]:
    """Every CPU kernel in the library, best first.

    Raises:
        RuntimeError: if this install has no kernels, or ``MBU_CPU_KERNEL`` names one that cannot run.
    """
    library = _library_functions()
    selected = _selected_name()
    kernels = []
    for i in range(library.mbu_cpu_kernel_count()):
        name = library.mbu_cpu_kernel_name(i).decode()
        isa = library.mbu_cpu_kernel_isa(i).decode()
        layout = library.mbu_cpu_kernel_layout(i).decode()
        available = bool(library.mbu_cpu_kernel_available(i))
        kernels.append(CpuKernel(name, isa, layout, available, name == selected))
    return kernels


def weight_layout() -> str:
    """The layout that ``tile_weight`` writes now: that of the CPU kernel in use."""
    return next(kernel.layout for kernel in cpu_kernels() if kernel.selected)


def serving_kernel(device: str = "cpu") -> str:
    """What runs one-bit convolutions on ``device``, by the name that ``mbu doctor`` shows.

    Args:
        device: ``"cpu"``, or ``"cuda"`` with or without an index; 0 without.

    Raises:
        RuntimeError: if this install has no kernels, or there is no such device.
    """
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return _selected_name()
    from .cuda import cuda_devices, driver  # opens the driver

    found = [card for card in cuda_devices() if card.index == int(index or 0)] if kind == "cuda" else []
    if not found:
        raise RuntimeError(f"there is no device {device!r}: {driver()[2] or 'use cpu or cuda:0'}.")
    return ", ".join(found[0].families) or "float operations of torch"


@contextmanager
def use_cpu_kernel(name: str) -> Iterator[None]:
    """Uses kernel ``name`` inside the block, in every thread. For tests and benchmarks.

    Tile weights inside the block too: a kernel refuses those of another layout.

    Raises:
        RuntimeError: if the library has no such kernel or this machine cannot run it.
    """
    before = _selected_name()
    _force(name)
    try:
        yield
    finally:
        _force(before)


def fallback_reason() -> str:
    """Why no kernel of the library ran the last call of this thread that torch's own operations run instead.

    Raises:
        RuntimeError: if this install has no kernels.
    """
    return _library_functions().mbu_fallback_reason().decode()


def release_memory() -> None:
    """Gives memory that large results left for later ones back to the system.

    It is kept between calls so that a running network asks the system for none; memory that many results in a row did
    not need goes back by itself.
    """
    _library_functions().mbu_release_memory()


def doctor() -> dict[str, object]:
    """What this machine can run, tested; see :func:`mbu_ops.doctor.doctor`."""
    from .doctor import doctor as examine  # it uses this module

    return examine()
