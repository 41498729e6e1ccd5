"""The fused convolutions, run by the emulator from their CUDA source and from their PTX, against the reference."""

from __future__ import annotations

import pytest
import torch
from emulator import build
from emulator.cases import LAYERS, Conv, Problem, Stream
from emulator.checks import check_bits, check_head, check_stream

KERNELS = [kernel.name for kernel in build.kernels() if kernel.name.startswith("conv2d_")]
PTX = [kernel.name for kernel in build.kernels() if kernel.file in build.PTX_FILES and kernel.name in KERNELS]


def vector(kernel: str) -> int:
    return int(kernel.split("_v")[1][0])


def check_layers(library, kernel: str, layers: list[str], seed: int) -> None:
    for i, name in enumerate(layers):
        problem = Problem(LAYERS[name](vector(kernel)), seed + i)
        # Both orders of warps and both moments at which a copy may land.
        options = {"late": (seed + i) % 4 < 2, "backwards": i % 2 == 1}
        if "_bits_" in kernel:
            check_bits(library, kernel, problem, **options)
        else:
            check_stream(library, kernel, problem, seed + i, **options)


@pytest.mark.parametrize("name", KERNELS)
def test_source(from_source, name):
    seed = KERNELS.index(name)
    layers = list(LAYERS)
    # Every kernel runs half of the layers; kernels of one form and vector together run all of them.
    check_layers(from_source, name, layers[seed % 2 :: 2], seed)


@pytest.mark.parametrize("name", PTX)
def test_ptx(from_ptx, name):
    check_layers(from_ptx, name, list(LAYERS), 100 + PTX.index(name))


def check_heads(library, kernel: str, seed: int) -> None:
    """On layers whose channels a block has all of."""
    width = int(kernel.split("_")[1].split("x")[1])
    layers = [name for name, make in LAYERS.items() if make(1).out_channels <= width]
    for i, name in enumerate(layers[seed % 3 :: 3]):
        options = {"late": i % 2 == 0, "backwards": seed % 2 == 1}
        check_head(library, kernel, Problem(LAYERS[name](vector(kernel)), seed + i), seed + i, **options)


@pytest.mark.parametrize("name", [name for name in KERNELS if "_stream_" in name])
def test_heads_from_source(from_source, name):
    check_heads(from_source, name, KERNELS.index(name))


@pytest.mark.parametrize("name", [name for name in PTX if "_stream_" in name])
def test_heads_from_ptx(from_ptx, name):
    check_heads(from_ptx, name, PTX.index(name))


def test_sums_are_a_stream_without_steps(from_source):
    problem = Problem(LAYERS["3x3"](2), 7)
    stream = Stream(torch.empty(0, 2, problem.conv.out_channels))
    values, _ = problem.stream(from_source, "conv2d_64x64_stream_v2__sm80_xor", stream)
    assert torch.equal(values, problem.dots)


@pytest.mark.parametrize(
    "conv, reason",
    [
        (Conv((2, 2), (32,), 4, stride=(9, 1), transposed=True), "stride above 8"),
        (Conv((1, 3), (32,), 4, kernel=(1, 1), padding=(0, 32765), pad_value=-1), "larger than 32767"),
    ],
)
def test_layers_that_no_kernel_takes(from_source, conv, reason):
    problem = Problem(conv, 0)
    with pytest.raises(RuntimeError, match=reason):
        problem.bits(from_source, "conv2d_64x64_bits_v1__sm80_xor", *problem.thresholds())
