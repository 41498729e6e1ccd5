"""Looks for cliffs: layers whose channel counts and widths fill no word, tile or register."""

from __future__ import annotations

import time
from typing import Any

import torch
from conv2d_layers import Layer, prepare

import mbu_ops.functional as F
from mbu_ops.backends import use_cpu_kernel

# What differs from a 3x3 layer of stride 1 that keeps its size.
KINDS: dict[str, dict[str, Any]] = {
    "3x3": {},
    "1x1": {"kernel": 1, "padding": 0},
    "stride2": {"stride": 2},
    "dilation2": {"dilation": 2, "padding": 2},
    "up": {"kernel": 2, "stride": 2, "padding": 0, "transposed": True},
}
TAIL_CHANNELS = (1, 3, 17, 31, 32, 33, 63, 65, 96, 100, 127, 129)
TAIL_WIDTHS = (1, 2, 3, 4, 7, 12, 13, 31, 33, 65, 100, 127)
TAIL_PIXELS = 16384
CLIFF = 1.3


def tail_layer(kind: str, channels: int, out_channels: int, width: int) -> Layer:
    """A layer with about `TAIL_PIXELS` pixels of work, `width` of them in a row."""
    height = max(TAIL_PIXELS // width, 1)
    name = f"{kind} {channels}->{out_channels}, {height}x{width}"
    # Of the input: two pixels for each output where it is halved.
    step = 2 if kind == "stride2" else 1
    geometry: dict[str, Any] = {"kernel": 3, "stride": 1, "padding": 1} | KINDS[kind]
    return Layer(name, channels, out_channels, height * step, width * step, **geometry)


def tail_pairs(kind: str) -> list[tuple[Layer, Layer]]:
    """Each layer with the nearest one of full size: multiples of 64 channels and 32 columns."""

    def full(value: int, unit: int) -> int:
        return max(unit, round(value / unit) * unit)

    pairs = [(tail_layer(kind, c, 64, 64), tail_layer(kind, full(c, 64), 64, 64)) for c in TAIL_CHANNELS]
    pairs += [(tail_layer(kind, 64, c, 64), tail_layer(kind, 64, full(c, 64), 64)) for c in TAIL_CHANNELS]
    return pairs + [(tail_layer(kind, 64, 64, w), tail_layer(kind, 64, 64, full(w, 32))) for w in TAIL_WIDTHS]


def work(layer: Layer) -> int:
    """Pixels x words in x words out; pixels of the output, of a transposed layer those of its input."""
    return layer.pixels * -(-layer.channels // 32) * -(-layer.out_channels // 32)


def bench_tails(kinds: list[str], kernels: list[str], repeats: int, sums: bool) -> int:
    """Prints a line for each layer and kernel; the fastest of many short rounds, both sizes in turn."""
    print(
        f"time for each pixel and 32x32 channels, ns; and over that of the nearest full size (x above {CLIFF})"
    )
    for pair in (pair for kind in kinds for pair in tail_pairs(kind)):
        prepared = [prepare(layer, sums) for layer in pair]
        expected = [reference() for _, _, reference in prepared]
        for kernel in kernels:
            with use_cpu_kernel(kernel):
                weights = [F.tile_weight(planes) for planes, _, _ in prepared]
                for (_, run, _), weight, right in zip(prepared, weights, expected, strict=True):
                    if not torch.equal(run(weight), right):
                        print(f"{pair[0].name}: kernel {kernel} differs from the reference; nothing is timed")
                        return 1
                best = [float("inf")] * 2
                for i in range(2 * repeats):
                    start = time.perf_counter()
                    prepared[i % 2][1](weights[i % 2])
                    best[i % 2] = min(best[i % 2], (time.perf_counter() - start) * 1e9 / work(pair[i % 2]))
            ratio = best[0] / best[1]
            mark = "x" if ratio > CLIFF else ""
            print(f"{pair[0].name:28s} {kernel:14s} {best[0]:8.2f} {ratio:6.2f} {mark}")
    return 0
