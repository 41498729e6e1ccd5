"""The job `limits`: shapes and arguments that nobody means, and memory whose offsets need more than 32 bits.

Everything here is refused with a message, or computed; nothing may stop the process, and nothing may take more memory
than its result is worth.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits, pack_weight
from mbu_ops.backends import cpu_kernels, use_cpu_kernel

from .job import Report

ROOM = 2**30  # bytes that a refusal may take
HUGE = 2**31 - 1  # the largest of a geometry's numbers
MANY = 2**63 - 1

Call = Callable[[], Any]


def bits(*shape: int) -> Tensor:
    """One word of memory that claims to be many: `[N, H, W, Cw]`."""
    return torch.zeros(1, dtype=torch.int32).expand(shape)


def planes(out_channels: int = 4, channels: int = 32, *kernel: int) -> Tensor:
    return pack_weight(torch.ones(out_channels, channels, *(kernel or (1, 1))))


def forged(**changes: int) -> Tensor:
    """A tiled weight whose header says something else."""
    weight = F.tile_weight(planes(4, 32, 3, 3))
    for name, value in changes.items():
        weight[
            ("magic", "out_channels", "kernel_h", "kernel_w", "words", "layout", "tile_words").index(name)
        ] = value
    return weight


def refused() -> Iterator[tuple[str, Call]]:
    """Calls that must raise RuntimeError."""
    one, three = F.tile_weight(planes()), F.tile_weight(planes(4, 32, 3, 3))
    wide = bits(1, 2**31, 2**31, 1)
    floats = torch.zeros(1).expand(1, 32, 2**28, 2**28)
    threshold, flip = torch.zeros(1, 4, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    affine = torch.zeros(1, 2, 4)
    for name, image in (
        ("2^62 pixels", wide),
        ("2^60 images", bits(2**60, 1, 1, 1)),
        ("2^32 pixels", bits(1, 2**16, 2**16, 1)),
    ):
        yield f"conv2d of {name}", lambda x=image: F.conv2d(x, one, 4, 1)
        yield f"conv_transpose2d of {name}", lambda x=image: F.conv_transpose2d(x, one, 4, 1, 2)
        yield f"conv2d_stream of {name}", lambda x=image: F.conv2d_stream(x, one, affine, [], None, 4, 1)
        yield f"unpack of {name}", lambda x=image: F.unpack(x, 32)
        yield f"gemm of {name}", lambda x=image: F.gemm(x, one, 4)
    yield "conv2d_threshold of 2^62 pixels", lambda: F.conv2d_threshold(wide, one, threshold, flip, 4, 1)
    yield "gemm_threshold of 2^62 rows", lambda: F.gemm_threshold(wide, one, threshold, flip, 4)
    yield "max_pool2d of 2^62 pixels", lambda: F.max_pool2d(wide, 1)
    yield "pack of 2^56 pixels", lambda: F.pack(floats)
    yield "unpack to 2^63 channels", lambda: F.unpack(bits(1, 1, 1, 1), MANY)
    yield "2^63 output channels", lambda: F.conv2d(bits(1, 4, 4, 1), one, MANY, 1)
    yield "gemm to 2^63 channels", lambda: F.gemm(bits(4, 1), one, MANY)
    far = {"stride": HUGE, "padding": HUGE, "dilation": HUGE}
    yield (
        "everything far apart",
        lambda: F.conv2d(bits(1, 4, 4, 1), F.tile_weight(planes(4, 32, 2, 2)), 4, 2, **far),
    )
    yield "padding of 2^31", lambda: F.conv2d(bits(1, 4, 4, 1), three, 4, 3, padding=HUGE)
    yield "stride of 2^31, transposed", lambda: F.conv_transpose2d(bits(1, 2, 2, 1), one, 4, 1, HUGE)
    yield "stride of 20000, transposed", lambda: F.conv_transpose2d(bits(1, 2, 2, 1), one, 4, 1, 20000)
    yield "a size of 2^62", lambda: F.conv2d([bits(1, 4, 4, 1)], one, 4, 1, size=[2**31 - 1, 2**31 - 1])
    yield "2^31 outputs", lambda: F.tile_weight(bits(2, 2**31, 1, 1, 1))
    yield "2^63 products", lambda: F.tile_weight(bits(2, 1, 2**20, 2**20, 2**20))
    yield (
        "32768 planes",
        lambda: F.conv2d_threshold(
            bits(1, 64, 64, 1),
            F.tile_weight(planes(32, 32, 64, 64)),
            bits(32768, 32),
            bits(32768, 1),
            32,
            64,
            padding=32,
        ),
    )
    stem = F.tile_stem_weight(torch.ones(4, 3, 3, 3))
    x = torch.zeros(1).expand(1, 3, 2**30, 2**30)
    yield "stem of 2^60 pixels", lambda: F.stem_stream(x, stem, affine, None)
    yield "head of 2^60 pixels", lambda: F.head_conv2d(x, torch.ones(1, 3, 3, 3))
    yield "joined head of 2^60 pixels", lambda: F.joined_head([x, x], torch.ones(2, 6))
    yield "head far apart", lambda: F.head_conv2d(torch.ones(1, 3, 4, 4), torch.ones(1, 3, 3, 3), None, HUGE)
    yield (
        "stem far apart",
        lambda: F.stem_stream(torch.ones(1, 3, 4, 4), stem, affine, None, HUGE, HUGE, HUGE),
    )
    for changes in ({"kernel_h": HUGE, "kernel_w": HUGE}, {"kernel_h": 2**15, "kernel_w": 2**15}):
        size = [changes["kernel_h"], changes["kernel_w"]]
        yield (
            f"a weight that claims {size}",
            lambda c=changes, s=size: F.conv2d(bits(1, 4, 4, 1), forged(**c), 4, s, padding=HUGE),
        )
    for changes in (
        {"out_channels": -1},
        {"words": 0},
        {"tile_words": 0},
        {"tile_words": HUGE},
        {"tile_words": -1},
    ):
        count = changes.get("out_channels", 4)
        yield (
            f"a weight that claims {changes}",
            lambda c=changes, n=count: F.conv2d(bits(1, 4, 4, 1), forged(**c), n, 3),
        )


def computed() -> Iterator[tuple[str, Call, Tensor]]:
    """Strange calls that have a small result."""
    image = pack_bits(torch.rand(1, 5, 6, 40) < 0.3)
    any_ = R.max_pool2d(image, (5, 6))
    window = {"kernel_size": HUGE, "stride": HUGE, "padding": HUGE // 2}
    yield "a window of 2^31", lambda: F.max_pool2d(image, **window)[:, :1, :1], any_
    yield "a pool's stride of 2^31", lambda: F.max_pool2d(image, (5, 6), HUGE), any_
    weight = planes(33, 40, 3, 3)
    tiled = F.tile_weight(weight)
    corner = R.conv2d(image[:, :3, :3], weight)
    yield "a stride of 2^31", lambda: F.conv2d(image, tiled, 33, 3, HUGE), corner
    x, float_weight = torch.randn(1, 3, 5, 6), torch.randn(8, 3, 3, 3)
    stem = F.tile_stem_weight(float_weight)
    first = F.stem_stream(x[:, :, :3, :3], stem, torch.zeros(0, 2, 8), None)[0]
    yield (
        "a stem's stride of 2^31",
        lambda: F.stem_stream(x, stem, torch.zeros(0, 2, 8), None, HUGE)[0],
        first,
    )
    yield "no rows", lambda: F.gemm(image[:0], F.tile_weight(planes(4, 40)), 4), torch.zeros(0, 5, 6, 4)


def far_apart(values: Tensor) -> Tensor:
    """The same tensor with rows 2^31 + 64 elements apart; the memory between them is never touched."""
    n, rows, columns, last = values.shape
    assert n == 1 and rows == 2
    step = 2**31 + 64
    row = torch.empty(step + columns * last, dtype=values.dtype)
    view = row.as_strided(values.shape, (2 * step, step, last, 1))
    view.copy_(values)
    return view


def wide_offsets() -> Iterator[tuple[str, Call, Tensor]]:
    """Operands whose elements lie more than 2^31 elements apart."""
    image, weight = pack_bits(torch.rand(1, 2, 9, 70) < 0.5), planes(40, 70, 2, 3)
    apart = far_apart(image)
    yield (
        "conv2d",
        lambda: F.conv2d(apart, F.tile_weight(weight), 40, (2, 3), 1, 1),
        R.conv2d(image, weight, 1, 1),
    )
    yield (
        "conv2d, no ring",
        lambda: F.conv2d(apart, F.tile_weight(weight), 40, (2, 3)),
        R.conv2d(image, weight),
    )
    yield "max_pool2d", lambda: F.max_pool2d(apart, 2), R.max_pool2d(image, 2)
    yield "unpack", lambda: F.unpack(apart, 70), R.unpack(image, 70)
    x = torch.randn(1, 2, 9, 40)
    far = far_apart(x).permute(0, 3, 1, 2)
    yield "pack", lambda: F.pack(far), R.pack(x.permute(0, 3, 1, 2))
    yield "gemm", lambda: F.gemm(apart, F.tile_weight(planes(8, 70)), 8), R.gemm(image, planes(8, 70))


def run(report: Report, count: int, number: int) -> None:
    torch.manual_seed(number)
    kernels = [kernel.name for kernel in cpu_kernels() if kernel.available]
    done = 0

    def compare(name: str, call: Call, expected: Tensor) -> None:
        nonlocal done
        report.keep(name)
        found = call()
        assert torch.equal(found, expected.to(found.dtype)), f"{name}: a wrong result"
        done += 1

    for kernel in kernels:
        with use_cpu_kernel(kernel):
            for name, call, expected in wide_offsets():
                compare(f"{name} far apart, {kernel}", call, expected)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    refusals = 0
    for kernel in kernels:
        with use_cpu_kernel(kernel):
            for name, call, expected in computed():
                compare(f"{name}, {kernel}", call, expected)
            for name, call in refused():
                report.keep(f"{name}, {kernel}")
                try:
                    call()
                except (RuntimeError, MemoryError) as error:
                    assert str(error), f"{name}: refused without a word"
                    refusals += 1
                else:
                    raise AssertionError(f"{name}, {kernel}: accepted")
    report.result(f"{refusals} calls refused, {done} computed, on {', '.join(kernels)}")
