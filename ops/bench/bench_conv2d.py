"""Times the packed convolutions of a network, per CPU kernel: equality first, then milliseconds.

    python ops/bench/bench_conv2d.py [--shapes FILE] [--kernels NAME ...] [--threads N] [--repeats N] [--sums]
    python ops/bench/bench_conv2d.py --blocks [--shapes FILE] [--kernels NAME ...] [--repeats N] [--sums]
    python ops/bench/bench_conv2d.py --binary [--shapes FILE] [--kernels NAME ...] [--repeats N] [--sums]
    python ops/bench/bench_conv2d.py --tails [KIND ...] [--kernels NAME ...] [--repeats N] [--sums]

Every layer is compared with the plain-torch reference before anything is timed; one wrong bit ends the run.
Kernels are timed in turn within each repeat, so that a change of clock frequency meets all of them.
GMAC/s counts the multiply-adds that the float layer would do.

--blocks leaves blocks of 32 outputs x 32 inputs of one tap out of the weights, a share of them at random, and shows how
many times faster each layer gets. --binary shows the same of weights without zeros.

--tails looks for cliffs instead: layers with channel counts and widths that fill no word, tile or register. KIND is 3x3,
1x1, stride2 or dilation2 (3x3 layers too), up (transposed 2x2, stride 2); all without. The work of a layer is what an ideal
kernel must do: pixels x words in x words out, the pixels of the output, of a transposed layer those of its input, as each is
spread over 2x2 outputs. Time per work is compared with the nearest full size, and a ratio above 1.3 is marked.

A shapes file has a layer in each line: name C OC H W kernel stride padding [dilation [groups]] kind. Kind is masked, binary
or up (transposed); lines of others are left out.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conv2d_layers import prepare, read_shapes
from conv2d_tails import KINDS, bench_tails
from torch import Tensor

import mbu_ops.functional as F
from mbu_ops.backends import cpu_kernels, use_cpu_kernel

SHAPES = Path(__file__).parent / "shapes" / "mbunet_256.txt"


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
    parser.add_argument(
        "--tails",
        nargs="*",
        choices=KINDS,
        metavar="KIND",
        help="channel counts and widths that fill nothing",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{device_name()}, {options.threads} threads, torch {torch.__version__}, {options.repeats} repeats, "
        f"{'float sums' if options.sums else 'packed bits'}; ms is the median (quartiles)"
    )
    if options.blocks or options.binary:
        columns = (BLOCKS if options.blocks else {}) | (BINARY if options.binary else {})
        return bench_weights(columns, options.shapes, options.kernels, options.repeats, options.sums)
    if options.tails is not None:
        return bench_tails(options.tails or list(KINDS), options.kernels, options.repeats, options.sums)
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
