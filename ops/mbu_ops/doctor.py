"""What this machine can run, tested: kernels of the processor and of every GPU, and the reason for each that it cannot."""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor

from . import cuda, fallback, reference
from .backends import cpu_kernels, library_path, use_cpu_kernel
from .packing import pack_bits, pack_weight

# in channels, out channels, kernel, stride, padding: a whole word, tails, a wide layer, one pixel
_LAYERS = ((32, 32, 3, 1, 1), (70, 40, 3, 2, 1), (256, 96, 3, 1, 1), (5, 7, 1, 1, 0))


def self_test(device: str = "cpu") -> bool:
    """Whether random layers on `device` equal the reference bit for bit, by whatever runs them there."""
    generator = torch.Generator().manual_seed(0)

    def layer(channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> bool:
        bits = pack_bits(torch.rand(2, 9, 11, channels, generator=generator) < 0.5)
        weight = torch.randint(-1, 2, (out_channels, channels, kernel, kernel), generator=generator)
        planes = pack_weight(weight)
        threshold = torch.randint(-9, 9, (1, out_channels), generator=generator, dtype=torch.int32)
        flip = pack_bits(torch.rand(1, out_channels, generator=generator) < 0.5)
        tiles = torch.ops.mbu.tile_weight(planes.to(device))
        geometry = [stride] * 2, [padding] * 2, [1, 1]

        def there(*tensors: Tensor) -> list[Tensor]:
            return [tensor.to(device) for tensor in tensors]

        dots = torch.ops.mbu.conv2d(there(bits), tiles, out_channels, [kernel] * 2, *geometry)
        found = torch.ops.mbu.conv2d_threshold(
            there(bits), tiles, *there(threshold, flip), out_channels, [kernel] * 2, *geometry
        )
        expected = reference.conv2d_threshold(bits, planes, threshold, flip, stride, padding)
        return torch.equal(dots.cpu(), reference.conv2d(bits, planes, stride, padding)) and torch.equal(
            found.cpu(), expected
        )

    return all(layer(*sizes) for sizes in _LAYERS)


def examples(device: str = "cpu") -> dict[str, tuple[Any, ...]]:
    """A small call of every operation of `torch.ops.mbu`, on `device`."""

    def ints(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=device)

    def floats(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device)

    bits, x, taps, doubling, one = (
        ints(1, 4, 4, 1),
        floats(1, 8, 4, 4),
        ints(2, 8, 3, 3, 1),
        ints(2, 8, 2, 2, 1),
        [1, 1],
    )
    weight, up, product = (torch.ops.mbu.tile_weight(p) for p in (taps, doubling, ints(2, 8, 1, 1, 1)))
    limits, affine = (ints(1, 8), ints(1, 1)), (floats(1, 2, 8), [], None)
    same, twice = (8, [3, 3], one, one, one), (8, [2, 2], [2, 2], [0, 0], [0, 0], one)
    image, stem, query = floats(1, 3, 4, 4), floats(1, 3, 3, 3, 32), floats(1, 1, 4, 8)
    return {
        "pack": (x,),
        "unpack": (bits, 8),
        "join_bits": ([bits, bits], [8, 8]),
        "tile_weight": (taps,),
        "conv2d": ([bits], weight, *same),
        "conv2d_threshold": ([bits], weight, *limits, *same),
        "conv2d_stream": ([bits], weight, *affine, *same),
        "conv_transpose2d": ([bits], up, *twice),
        "conv_transpose2d_threshold": ([bits], up, *limits, *twice),
        "conv_transpose2d_stream": ([bits], up, *affine, *twice),
        "gemm": (bits, product, 8),
        "gemm_threshold": (bits, product, *limits, 8),
        "stem_threshold": (image, stem, floats(1, 8), ints(1, 1), one, one, one),
        "stem_stream": (image, stem, floats(1, 2, 8), None, one, one, one),
        "head_conv2d": (x, floats(1, 3, 3, 8), None, one),
        "joined_head": ([x], floats(1, 8), None, None),
        "upsample_bilinear2d": (x, [8, 8], False),
        "attention": (query, query, query, 1.0),
        "max_pool2d": (bits, [2, 2], [2, 2], [0, 0], one, False),
    }


def _fallbacks(device: str) -> dict[str, str]:
    """Operation -> why no kernel runs it on `device`: of whatever ran in this process, and of every example."""
    for name, arguments in examples(device).items():
        getattr(torch.ops.mbu, name)(*arguments)
    return {name: why for (name, place), why in fallback.reasons.items() if place == device}


def _cpu() -> list[dict[str, Any]]:
    kernels = []
    for kernel in cpu_kernels():
        tested = None
        if kernel.available:
            with use_cpu_kernel(kernel.name):
                tested = self_test()
        kernels.append({**vars(kernel), "self_test": tested})
    return kernels


def _gpus() -> list[dict[str, Any]]:
    usable = torch.cuda.is_available()
    devices = []
    for device in cuda.cuda_devices():
        name = f"cuda:{device.index}"
        tested, fallbacks = (self_test(name), _fallbacks(name)) if usable else (None, {})
        choices = [{**vars(choice), "fastest": choice.fastest} for choice in cuda.cuda_choices(device.index)]
        found = {**vars(device), "families": device.families, "self_test": tested, "choices": choices}
        devices.append({**found, "fallbacks": fallbacks})
    return devices


def _advice(findings: dict[str, Any]) -> list[str]:
    advice = []
    if not findings["images"]:
        advice.append(
            "The library carries no compiled CUDA kernels: install nvcc and build again, or rely on the NVRTC of torch."
        )
    if findings["driver"]["version"] and not findings["torch_cuda"]:
        advice.append(
            "There is an NVIDIA driver, but this torch is built for the CPU alone: install its CUDA build."
        )
    for gpu in findings["gpus"]:
        if not gpu["families"]:
            reasons = sorted(set(gpu["refusals"].values()))
            advice.append(
                f"{gpu['name']} runs packed layers as float operations of torch: {'; '.join(reasons)}"
            )
    selected = next(kernel for kernel in findings["cpu_kernels"] if kernel["selected"])
    if selected["name"] == "scalar":
        advice.append(
            "Only the portable CPU kernel runs here: expect packed models to be slow on this processor."
        )
    return advice


def doctor() -> dict[str, Any]:
    """The findings, of plain types (JSON).

    Returns:
        `torch`, `torch_cuda`, `library`, `processor`; `cpu_kernels` (see `backends.CpuKernel`) and `gpus` (see
        `cuda.CudaDevice`, with the `choices` that were measured there and the `fallbacks`, operation -> why torch runs it),
        each with `self_test`: bit-exact, or None where it could not run; `images` of the library as target -> number; `driver` with its `version` (0: none), `devices` and `why`; `kernel_cache`; `advice`,
        one sentence for each thing that makes this machine slower than it could be.
    """
    version, count, why = cuda.driver()
    targets = [image.target for image in cuda.cuda_images()]
    findings: dict[str, Any] = {
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "library": str(library_path()),
        "processor": platform.processor() or platform.machine(),
        "cpu_kernels": _cpu(),
        "images": {target: targets.count(target) for target in sorted(set(targets))},
        "driver": {"version": version, "devices": count, "why": why},
        "gpus": _gpus(),
        "kernel_cache": cuda.cache_folder(),
    }
    findings["advice"] = _advice(findings)
    return findings
