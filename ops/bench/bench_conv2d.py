"""Times the packed convolutions of a network, per CPU kernel: equality first, then milliseconds.

    python ops/bench/bench_conv2d.py [--shapes FILE] [--kernels NAME ...] [--threads N] [--repeats N] [--sums]
    python ops/bench/bench_conv2d.py --blocks [--shapes FILE] [--kernels NAME ...] [--repeats N] [--sums]
    python ops/bench/bench_conv2d.py --binary [--shapes FILE] [--kernels NAME ...] [--repeats N] [--sums]
    python ops/bench/bench_conv2d.py --tails [--kernels NAME ...] [--repeats N] [--sums]

Every layer is compared with the plain-torch reference before anything is timed; one wrong bit ends the run.
Kernels are timed in turn within each repeat, so that a change of clock frequency meets all of them.
GMAC/s counts the multiply-adds that the float layer would do.

--blocks leaves blocks of 32 outputs x 32 inputs of one tap out of the weights, a share of them at random, and shows how
many times faster each layer gets. --binary shows the same of weights without zeros.

--tails looks for cliffs instead: 3x3 layers with channel counts and widths that fill no word, tile or register. The
work of a layer is what an ideal kernel must do: output pixels x words in x words out. Time per work is compared with
the nearest full size, and a ratio above 1.3 is marked.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits, pack_weight
from mbu_ops.backends import cpu_kernels, use_cpu_kernel

SHAPES = Path(__file__).parent / "shapes" / "mbunet_256.txt"


@dataclass(frozen=True)
class Layer:
    """One line of a shapes file."""

    name: str
    channels: int
    out_channels: int
    height: int
    width: int
    kernel: int
    stride: int
    padding: int
    transposed: bool

    @property
    def gmac(self) -> float:
        """Multiply-adds in 10^9. A transposed layer spreads every input pixel, an ordinary one gathers per output."""
        pixels = self.height * self.width
        if not self.transposed:
            pixels = ((self.height + 2 * self.padding - self.kernel) // self.stride + 1) * (
                (self.width + 2 * self.padding - self.kernel) // self.stride + 1
            )
        return pixels * self.channels * self.out_channels * self.kernel**2 / 1e9


def read_shapes(path: Path) -> list[Layer]:
    """The one-bit convolutions of a shapes file: one per line, `#` starts a comment."""
    lines = (line.split("#")[0].split() for line in path.read_text().splitlines())
    return [
        Layer(name, *map(int, numbers), transposed=kind == "up")
        for name, *numbers, kind in filter(None, lines)
        if kind in ("masked", "binary", "up")
    ]


def prepare(
    layer: Layer, sums: bool, density: float = 1.0, zeros: bool = True
) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[], Tensor]]:
    """Weight planes, the operation on tiled ones and its reference, on random data.

    Args:
        density: share of blocks that are present.
        zeros: a third of the weights in them, or none.
    """
    torch.manual_seed(0)
    bits = pack_bits(torch.rand(1, layer.height, layer.width, layer.channels) < 0.5)
    shape = (layer.out_channels, layer.channels, layer.kernel, layer.kernel)
    weight = torch.randint(-1, 2, shape) if zeros else torch.randint(0, 2, shape) * 2 - 1
    blocks = torch.rand(-(-layer.out_channels // 32), -(-layer.channels // 32), *weight.shape[2:]) < density
    present = blocks.repeat_interleave(32, 0).repeat_interleave(32, 1)
    planes = pack_weight(weight * present[: layer.out_channels, : layer.channels])
    threshold = torch.randint(-20, 21, (1, layer.out_channels), dtype=torch.int32)
    flip = torch.zeros(1, (layer.out_channels + 31) // 32, dtype=torch.int32)
    geometry = (layer.stride, layer.padding)
    fixed = (layer.out_channels, layer.kernel, *geometry)
    if layer.transposed:
        if sums:
            return (
                planes,
                lambda weight: F.conv_transpose2d(bits, weight, *fixed),
                lambda: R.conv_transpose2d(bits, planes, *geometry),
            )
        return (
            planes,
            lambda weight: F.conv_transpose2d_threshold(bits, weight, threshold, flip, *fixed),
            lambda: R.conv_transpose2d_threshold(bits, planes, threshold, flip, *geometry),
        )
    if sums:
        return (
            planes,
            lambda weight: F.conv2d(bits, weight, *fixed),
            lambda: R.conv2d(bits, planes, *geometry),
        )
    return (
        planes,
        lambda weight: F.conv2d_threshold(bits, weight, threshold, flip, *fixed),
        lambda: R.conv2d_threshold(bits, planes, threshold, flip, *geometry),
    )


def measure(
    run: Callable[[Tensor], Tensor], weights: dict[str, Tensor], repeats: int
) -> dict[str, list[float]]:
    """Sorted times in ms per kernel, each with its own tiled weight."""
    times: dict[str, list[float]] = {kernel: [] for kernel in weights}
    for _ in range(repeats):
        for kernel, weight in weights.items():
            with use_cpu_kernel(kernel):
                start = time.perf_counter()
                run(weight)
                times[kernel].append((time.perf_counter() - start) * 1e3)
    return {kernel: sorted(values) for kernel, values in times.items()}


# Column -> arguments of `prepare`; every layer also has weights with their defaults.
BLOCKS: dict[str, dict[str, Any]] = {
    f"{density:.0%}": {"density": density} for density in (0.75, 0.5, 0.25, 0.1)
}
BINARY: dict[str, dict[str, Any]] = {"binary": {"zeros": False}}


def bench_weights(
    columns: dict[str, dict[str, Any]], shapes: Path, kernels: list[str], repeats: int, sums: bool
) -> int:
    """Prints a line for each layer and kernel: dense time, and speed with other weights, the fastest of all rounds."""
    print(
        "dense ms with zeros, and how many times faster with this share of blocks present, or without zeros"
    )
    print(f"{'':14s} {'':14s} {'ms':>9s}" + "".join(f"{column:>8s}" for column in columns))
    for layer in read_shapes(shapes):
        prepared = [prepare(layer, sums, **arguments) for arguments in ({}, *columns.values())]
        expected = [reference() for _, _, reference in prepared]
        for kernel in kernels:
            best = [float("inf")] * len(prepared)
            with use_cpu_kernel(kernel):
                weights = [F.tile_weight(planes) for planes, _, _ in prepared]
                for (_, run, _), weight, right in zip(prepared, weights, expected, strict=True):
                    if not torch.equal(run(weight), right):
                        print(f"{layer.name}: kernel {kernel} differs from the reference; nothing is timed")
                        return 1
                for _ in range(repeats):
                    for i, ((_, run, _), weight) in enumerate(zip(prepared, weights, strict=True)):
                        start = time.perf_counter()
                        run(weight)
                        best[i] = min(best[i], (time.perf_counter() - start) * 1e3)
            speed = "".join(f"{best[0] / ms:7.2f}x" for ms in best[1:])
            print(f"{layer.name:14s} {kernel:14s} {best[0]:9.3f}{speed}")
    return 0


TAIL_CHANNELS = (1, 3, 17, 31, 32, 33, 63, 65, 96, 100, 127, 129)
TAIL_WIDTHS = (1, 2, 3, 4, 7, 12, 13, 31, 33, 65, 100, 127)
TAIL_PIXELS = 16384
CLIFF = 1.3


def tail_layer(channels: int, out_channels: int, width: int) -> Layer:
    """A 3x3 layer of about `TAIL_PIXELS` output pixels."""
    height = max(TAIL_PIXELS // width, 1)
    return Layer(
        f"{channels}->{out_channels}, {height}x{width}", channels, out_channels, height, width, 3, 1, 1, False
    )


def tail_pairs() -> list[tuple[Layer, Layer]]:
    """Each layer with the nearest one of full size: multiples of 64 channels and 32 columns."""

    def full(value: int, unit: int) -> int:
        return max(unit, round(value / unit) * unit)

    pairs = [(tail_layer(c, 64, 64), tail_layer(full(c, 64), 64, 64)) for c in TAIL_CHANNELS]
    pairs += [(tail_layer(64, c, 64), tail_layer(64, full(c, 64), 64)) for c in TAIL_CHANNELS]
    return pairs + [(tail_layer(64, 64, w), tail_layer(64, 64, full(w, 32))) for w in TAIL_WIDTHS]


def work(layer: Layer) -> int:
    """Output pixels x words in x words out."""
    return layer.height * layer.width * -(-layer.channels // 32) * -(-layer.out_channels // 32)


def bench_tails(kernels: list[str], repeats: int, sums: bool) -> int:
    """Prints a line for each layer and kernel; the fastest of many short rounds, both sizes in turn."""
    print(
        f"3x3 layers, time for each pixel and 32x32 channels, ns; and over that of the nearest full size (x above {CLIFF})"
    )
    for pair in tail_pairs():
        prepared = [prepare(layer, sums) for layer in pair]
        for kernel in kernels:
            with use_cpu_kernel(kernel):
                weights = [F.tile_weight(planes) for planes, _, _ in prepared]
                for (_, run, reference), weight in zip(prepared, weights, strict=True):
                    if not torch.equal(run(weight), reference()):
                        print(f"{pair[0].name}: kernel {kernel} differs from the reference; nothing is timed")
                        return 1
                best = [float("inf")] * 2
                for i in range(2 * repeats):
                    start = time.perf_counter()
                    prepared[i % 2][1](weights[i % 2])
                    best[i % 2] = min(best[i % 2], (time.perf_counter() - start) * 1e9 / work(pair[i % 2]))
            ratio = best[0] / best[1]
            mark = "x" if ratio > CLIFF else ""
            print(f"{pair[0].name:18s} {kernel:14s} {best[0]:8.2f} {ratio:6.2f} {mark}")
    return 0


def device_name() -> str:
    """Processor model, as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> int:
    available = [kernel.name for kernel in cpu_kernels() if kernel.available]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", type=Path, default=SHAPES)
    parser.add_argument("--kernels", nargs="+", choices=available, default=available)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--sums", action="store_true", help="float sums instead of packed bits")
    parser.add_argument("--blocks", action="store_true", help="weights with absent blocks")
    parser.add_argument("--binary", action="store_true", help="weights without zeros")
    parser.add_argument("--tails", action="store_true", help="channel counts and widths that fill nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{device_name()}, {options.threads} threads, torch {torch.__version__}, {options.repeats} repeats, "
        f"{'float sums' if options.sums else 'packed bits'}; ms is the median (quartiles)"
    )
    if options.blocks or options.binary:
        columns = (BLOCKS if options.blocks else {}) | (BINARY if options.binary else {})
        return bench_weights(columns, options.shapes, options.kernels, options.repeats, options.sums)
    if options.tails:
        return bench_tails(options.kernels, options.repeats, options.sums)
    total = dict.fromkeys(options.kernels, 0.0)
    for layer in read_shapes(options.shapes):
        planes, run, reference = prepare(layer, options.sums)
        expected, weights = reference(), {}
        for kernel in options.kernels:
            with use_cpu_kernel(kernel):
                weights[kernel] = F.tile_weight(planes)
                if not torch.equal(run(weights[kernel]), expected):
                    print(f"{layer.name}: kernel {kernel} differs from the reference; nothing is timed")
                    return 1
        for kernel, times in measure(run, weights, options.repeats).items():
            median, quarter = statistics.median(times), len(times) // 4
            total[kernel] += median
            print(
                f"{layer.name:14s} {kernel:14s} {median:9.3f} ms ({times[quarter]:.3f}-{times[-1 - quarter]:.3f})"
                f" {layer.gmac / median * 1e3:8.1f} GMAC/s"
            )
    for kernel, median in total.items():
        print(f"{'sum':14s} {kernel:14s} {median:9.3f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
