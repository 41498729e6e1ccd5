"""What the library carries for NVIDIA GPUs, what this machine's driver knows, and how each kernel reaches each card.

Nothing here runs at import: the driver is opened by the first question, as by the first CUDA tensor.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

from . import _library

_TEXT_BYTES = 4096


@dataclass(frozen=True)
class CudaImage:
    """One compiled kernel file in the library.

    Attributes:
        stem: the file below `csrc/cuda/`, without `.cu`.
        target: `sm_86` is machine code for compute capability 8.6 and later 8.x, `sm_90a` for 9.0 alone,
            `compute_80` is PTX for 8.0 and everything later.
        size: bytes.
    """

    stem: str
    target: str
    size: int


@dataclass(frozen=True)
class CudaKernel:
    """One line of `csrc/cuda/kernels.inc`.

    Attributes:
        name: its symbol.
        stem: its file.
        targets: what it may run on, as in :class:`CudaImage`; it is never launched elsewhere.
        shared_bytes: of shared memory that a block needs, bytes.
    """

    name: str
    stem: str
    targets: tuple[str, ...]
    shared_bytes: int


@dataclass(frozen=True)
class CudaDevice:
    """A card that the driver knows.

    Attributes:
        index: torch's number of it.
        name: the driver's name of it.
        capability: 86 for compute capability 8.6.
        multiprocessors: their number.
        shared_bytes: that a block may use, bytes.
        routes: kernel -> "cubin sm_86", "PTX compute_80" or "NVRTC sm_86", for those that may run on it.
        refusals: kernel -> why it has no route.
    """

    index: int
    name: str
    capability: int
    multiprocessors: int
    shared_bytes: int
    routes: dict[str, str]
    refusals: dict[str, str]

    @property
    def families(self) -> list[str]:
        """The convolution kernels that may run on it, by family."""
        return sorted({name.rpartition("__")[2] for name in self.routes if name.startswith("conv2d")})


@dataclass(frozen=True)
class CudaChoice:
    """What the timed search (`MBU_CUDA_SEARCH=1`) measured for a layer on a card.

    Attributes:
        layer: all that its time depends on.
        predicted: the kernel that the library's own table takes.
        times: kernel -> microseconds.
    """

    layer: str
    predicted: str
    times: dict[str, float]

    @property
    def fastest(self) -> str:
        """The kernel that runs the layer while the search is on."""
        return min(self.times, key=self.times.__getitem__)


@functools.cache
def _functions() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_library.require().__file__))
    for name in ("image_stem", "kernel_name", "kernel_stem", "kernel_targets", "last_kernel"):
        getattr(library, f"mbu_cuda_{name}").restype = ctypes.c_char_p
    library.mbu_cuda_image.restype = ctypes.c_void_p
    library.mbu_cuda_peak.restype = ctypes.c_double
    return library


def cuda_images() -> list[CudaImage]:
    """Every compiled image in the library; none where it was built without nvcc."""
    library = _functions()
    text, size = ctypes.create_string_buffer(_TEXT_BYTES), ctypes.c_longlong()
    images = []
    for i in range(library.mbu_cuda_image_count()):
        library.mbu_cuda_image(i, text, _TEXT_BYTES, ctypes.byref(size))
        images.append(CudaImage(library.mbu_cuda_image_stem(i).decode(), text.value.decode(), size.value))
    return images


def image_bytes(image: CudaImage) -> bytes:
    """The machine code (an ELF file) or PTX text of one image.

    Raises:
        ValueError: the library has no such image.
    """
    library = _functions()
    index = cuda_images().index(image)
    text, size = ctypes.create_string_buffer(_TEXT_BYTES), ctypes.c_longlong()
    start = library.mbu_cuda_image(index, text, _TEXT_BYTES, ctypes.byref(size))
    return ctypes.string_at(start, size.value)


def cuda_kernels() -> list[CudaKernel]:
    """Every CUDA kernel that the library knows, compiled in it or as source for NVRTC."""
    library = _functions()
    return [
        CudaKernel(
            library.mbu_cuda_kernel_name(i).decode(),
            library.mbu_cuda_kernel_stem(i).decode(),
            tuple(library.mbu_cuda_kernel_targets(i).decode().split()),
            library.mbu_cuda_kernel_shared_bytes(i),
        )
        for i in range(library.mbu_cuda_kernel_count())
    ]


def serving_target(kernel: CudaKernel, capability: int) -> str | None:
    """The target of `kernel` that serves a card of `capability` (86 for 8.6), or None where it may not run."""
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    index = [known.name for known in cuda_kernels()].index(kernel.name)
    return (
        text.value.decode()
        if _functions().mbu_cuda_serving_target(index, capability, text, _TEXT_BYTES)
        else None
    )


def driver() -> tuple[int, int, str]:
    """The driver's version (13000 for CUDA 13.0), the number of its devices, and why it cannot be used.

    The version is 0 where it cannot.
    """
    text, count = ctypes.create_string_buffer(_TEXT_BYTES), ctypes.c_int()
    version = _functions().mbu_cuda_driver(ctypes.byref(count), text, _TEXT_BYTES)
    return version, count.value, text.value.decode()


def cuda_devices() -> list[CudaDevice]:
    """Every card, with the route of every kernel. The first question loads the kernels of each card."""
    library, kernels = _functions(), cuda_kernels()
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    multiprocessors, shared = ctypes.c_int(), ctypes.c_int()
    devices = []
    for index in range(driver()[1]):
        capability = library.mbu_cuda_device(
            index, ctypes.byref(multiprocessors), ctypes.byref(shared), text, _TEXT_BYTES
        )
        name = text.value.decode()
        routes: dict[str, str] = {}
        refusals: dict[str, str] = {}
        for i, kernel in enumerate(kernels):
            usable = library.mbu_cuda_route(index, i, text, _TEXT_BYTES)
            (routes if usable else refusals)[kernel.name] = text.value.decode()
        devices.append(
            CudaDevice(index, name, capability, multiprocessors.value, shared.value, routes, refusals)
        )
    return devices


def last_kernel() -> str:
    """The CUDA kernel that this thread started last, by its name; empty before the first. What replays in a CUDA graph is
    not seen."""
    return _functions().mbu_cuda_last_kernel().decode()


def cache_folder() -> str:
    """Where kernels that NVRTC compiled are kept (`MBU_CACHE_DIR`, else the user's cache folder)."""
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    _functions().mbu_cuda_cache_folder(text, _TEXT_BYTES)
    return text.value.decode()


def cuda_choices(index: int) -> list[CudaChoice]:
    """What the search measured on card `index` with this driver and this library, the first 64 KiB of it."""
    text = ctypes.create_string_buffer(1 << 16)
    _functions().mbu_cuda_measured(index, text, len(text))
    choices = []
    for entry in text.value.decode().split("\n\n")[:-1]:  # the last one may be cut
        layer, predicted, *times = entry.splitlines()
        pairs = (line.split() for line in times)
        choices.append(CudaChoice(layer, predicted, {name: float(time) for name, time in pairs}))
    return choices
