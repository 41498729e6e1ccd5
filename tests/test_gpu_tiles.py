"""On a card: layers that fill it, so that its large tiles run them as in the benchmark, against the processor.

The processor's kernels equal the reference (tests/ops/test_conv2d.py); here the reference would take minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mbu_ops import fallback, pack_bits, pack_weight
from mbu_ops.cards import H200
from mbu_ops.cuda import cuda_devices, cuda_images, last_kernel
from mbu_ops.roofline import Layer, choose

OPS = torch.ops.mbu
ON_A_CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU, or a CPU build of torch")
everywhere = pytest.mark.parametrize("place", [pytest.param("cuda", marks=ON_A_CARD), "cpu"])
# Two columns of blocks of 64 channels, the second with a tail: with as many rows of blocks as there are multiprocessors,
# two blocks for each, which is what choices.inc asks for a tile.
OUT_CHANNELS = 70
PIXELS = {"128x64": 128, "64x64": 64}


@pytest.fixture(autouse=True)
def _by_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Right numbers of torch's own operations prove nothing."""
    monkeypatch.setattr(fallback, "reasons", {})
    yield
    assert not [name for name, where in fallback.reasons if where != "cpu"]


def image_size(multiprocessors: int, pixels: int) -> tuple[int, int, int]:
    """Images, height and width for as many rows of blocks of `pixels` as there are multiprocessors, the last one ragged."""
    return 2, 3, -(-(pixels * multiprocessors - pixels // 2) // 6)


def multiprocessors_of(place: str) -> int:
    return cuda_devices()[0].multiprocessors if place == "cuda" else 1


def random_layer(channels: int, out_channels: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """Planes, thresholds in two planes, and their flips."""
    planes = pack_weight(torch.randint(-1, 2, (out_channels, channels, kernel, kernel)))
    threshold = torch.randint(-20, 20, (2, out_channels), dtype=torch.int32)
    return planes, threshold, pack_bits(torch.rand(2, out_channels) < 0.5)


def equal_everywhere(
    place: str, name: str, bits: Tensor | list[Tensor], planes: Tensor, *arguments: Any, **more: Any
) -> str:
    """Calls an operation on `place` and on the processor, and compares all that it returns.

    Returns:
        The kernel on the card without its family, which must be one that the card has; empty on the processor.
    """

    def call(there: str) -> list[Tensor]:
        def moved(value: Any) -> Any:
            if isinstance(value, list) and value and isinstance(value[0], Tensor):
                return [part.to(there) for part in value]
            return value.to(there) if isinstance(value, Tensor) else value

        weight = OPS.tile_weight(planes.to(there))
        found = getattr(OPS, name)(moved(bits), weight, *map(moved, arguments), **more)
        return [found] if isinstance(found, Tensor) else list(found)

    expected = call("cpu")
    for found, value in zip(call(place), expected, strict=True):
        assert torch.equal(found.cpu(), value)
    if place == "cpu":
        return ""
    kernel, _, family = last_kernel().rpartition("__")
    assert family == os.environ.get("MBU_CUDA_FAMILY", family)
    assert family in cuda_devices()[0].families
    return kernel


@everywhere
@pytest.mark.parametrize("transposed", [False, True], ids=["3x3", "transposed"])
@pytest.mark.parametrize("words", [1, 2, 4])
@pytest.mark.parametrize("tile", PIXELS)
def test_a_tile(place: str, tile: str, words: int, transposed: bool) -> None:
    """To bits, and to a stream with a shortcut whose bits are kept too."""
    images, height, width = image_size(multiprocessors_of(place), PIXELS[tile] // (4 if transposed else 1))
    kernel, up = (2, 2) if transposed else (3, 1)
    bits = pack_bits(torch.rand(images, height, width, 32 * words) < 0.5)
    planes, threshold, flip = random_layer(32 * words, OUT_CHANNELS, kernel)
    one, none = [1, 1], [0, 0]
    layer = (OUT_CHANNELS, [kernel] * 2, *(([2, 2], none, none, one) if transposed else (one, one, one)))
    operation = "conv_transpose2d" if transposed else "conv2d"
    ran = equal_everywhere(place, f"{operation}_threshold", [bits], planes, threshold, flip, *layer)
    assert ran in ("", f"conv2d_{tile}_bits_v{words}")

    affine = torch.tensor([0.5, 0.25])[:, None].expand(1, 2, OUT_CHANNELS).contiguous()
    residual = torch.randn(images, OUT_CHANNELS, up * height, up * width).bfloat16()
    limits, more = torch.randn(2, OUT_CHANNELS), {"relu": True, "dtype": torch.bfloat16}
    ran = equal_everywhere(
        place, f"{operation}_stream", [bits], planes, affine, [residual], limits, *layer, **more
    )
    assert ran in ("", f"conv2d_{tile}_stream_v{words}")


def main_loop(place: str, stem: str, otherwise: str) -> str:
    """The name that the kernel of a long sum begins with; bytes have no main loop of CUTLASS, some libraries none."""
    if place == "cpu":
        return ""
    carried = any(image.stem.startswith("gemm/") for image in cuda_images())
    bits = os.environ.get("MBU_CUDA_FAMILY") != "sm80_int8" and cuda_devices()[0].capability <= 90
    return stem if carried and bits else otherwise


@everywhere
def test_a_tile_of_a_wide_convolution(place: str) -> None:
    images, height, width = image_size(multiprocessors_of(place), PIXELS["128x64"])
    bits = pack_bits(torch.rand(images, height, width, 512) < 0.5)
    planes, threshold, flip = random_layer(512, OUT_CHANNELS, 3)
    layer = OUT_CHANNELS, [3, 3], [1, 1], [1, 1], [1, 1]
    starts = main_loop(place, "wide_conv2d_128x64_", "conv2d_128x64_")
    assert equal_everywhere(place, "conv2d", [bits], planes, *layer).startswith(starts)
    ran = equal_everywhere(place, "conv2d_threshold", [bits], planes, threshold, flip, *layer)
    assert ran.startswith(starts)


@everywhere
@pytest.mark.parametrize("tile, channels", [("128x128", 192), ("128x64", 70), ("64x64", 70)])
def test_a_tile_of_a_product(place: str, tile: str, channels: int) -> None:
    """Two columns of blocks as above."""
    images, height, width = image_size(multiprocessors_of(place), int(tile.partition("x")[0]))
    bits = pack_bits(torch.rand(images * height * width, 1024) < 0.5)
    planes, threshold, flip = random_layer(1024, channels, 1)
    starts = main_loop(place, f"gemm_{tile}", "conv2d_")
    assert equal_everywhere(place, "gemm", bits, planes, channels).startswith(starts)
    assert equal_everywhere(place, "gemm_threshold", bits, planes, threshold, flip, channels).startswith(
        starts
    )


@everywhere
@pytest.mark.parametrize("sizes", [[(9, 7), (9, 7), (9, 7)], [(9, 7), (4, 3)], [(3, 2), (82, 1), (9, 7)]])
def test_joined_inputs_of_any_number_and_size(place: str, sizes: list[tuple[int, int]]) -> None:
    """Joined in front of the convolution where its kernels do not read them in place."""
    channels = [32, 40, 100][: len(sizes)]
    parts = [pack_bits(torch.rand(2, *size, n) < 0.5) for size, n in zip(sizes, channels, strict=True)]
    planes = pack_weight(torch.randint(-1, 2, (OUT_CHANNELS, sum(channels), 3, 3)), segments=channels)
    layer = OUT_CHANNELS, [3, 3], [1, 1], [1, 1], [1, 1]
    for size in ((9, 7), (82, 3)):
        assert equal_everywhere(place, "conv2d", parts, planes, *layer, size=size)[:7] in ("", "conv2d_")


@everywhere
def test_tiles_of_bytes(place: str) -> None:
    """The kernels of later cards, and of whoever asks for them: the family of a card is chosen once for each process."""
    if "MBU_CUDA_FAMILY" in os.environ:
        pytest.skip("this is the process that was asked for a family")
    if place == "cuda" and "sm80_int8" not in cuda_devices()[0].families:
        pytest.skip("this card has no products of bytes in that form")
    here = Path(__file__)
    files, chosen = {
        "cuda": ([here, here.with_name("test_gpu.py")], "cuda and (test_a_tile or test_a_layer)"),
        "cpu": ([here], "cpu and test_a_tile and 64x64 and 3x3"),
    }[place]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "default",
        "-p",
        "no:cacheprovider",
        *map(str, files),
    ]
    done = subprocess.run(
        [*command, "-k", chosen], env={**os.environ, "MBU_CUDA_FAMILY": "sm80_int8"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "failed" not in done.stdout


@pytest.mark.parametrize("multiprocessors", [8, 68, 108, 132])
def test_these_sizes_are_meant_for_their_tiles(multiprocessors: int) -> None:
    """By the rules of choices.inc."""
    card = replace(H200, multiprocessors=multiprocessors)
    for tile, pixels in PIXELS.items():
        for passes in (1, 4):
            images, height, width = image_size(multiprocessors, pixels // passes)
            inputs = images * height * width
            layer = Layer("", 32, OUT_CHANNELS, inputs, passes, 9 // passes, inputs)
            assert choose(layer, card)[0].name == tile
