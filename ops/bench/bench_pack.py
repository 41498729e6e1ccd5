"""Times packing and unpacking against memory: reading the same floats with `torch.sum`, filling them with `fill_`.

    python ops/bench/bench_pack.py [--size HxW] [--channels C ...] [--kernels NAME ...] [--threads N] [--repeats N]

Every result is compared with the plain-torch reference first. Operation and reference take turns, the fastest of all
rounds counts; a share of 100 % is as fast as memory lets torch read or write those floats, more is faster.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops.backends import cpu_kernels, use_cpu_kernel

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def fastest(calls: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Fastest of `repeats` rounds of each, in turn; seconds."""
    best = [float("inf")] * len(calls)
    for _ in range(repeats):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def report(name: str, kernel: str, call: Callable[[], Tensor], memory: Callable[[], Any], floats: Tensor,
           repeats: int) -> None:  # fmt: skip
    """Prints a line: time, bytes of floats in it, and its share of memory's speed."""
    seconds, least = fastest([call, memory], repeats)
    size = floats.numel() * floats.element_size()
    print(
        f"{name:28s} {kernel:14s} {1e3 * seconds:9.3f} ms {size / seconds / 1e9:7.1f} GB/s {least / seconds:6.0%}"
    )


def main() -> int:
    available = [kernel.name for kernel in cpu_kernels() if kernel.available]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="512x512", help="height and width (default: %(default)s)")
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 24])
    parser.add_argument("--kernels", nargs="+", choices=available, default=available)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = tuple(int(side) for side in options.size.split("x"))
    print(
        f"{options.size}, {options.threads} threads, torch {torch.__version__}, fastest of {options.repeats} rounds"
    )
    for channels in options.channels:
        x = torch.randn(1, channels, *size)
        bits = R.pack(x)
        for kernel in options.kernels:
            with use_cpu_kernel(kernel):
                for type_name, dtype in TYPES.items():
                    for layout, memory_format in FORMATS.items():
                        floats = x.to(dtype).contiguous(memory_format=memory_format)
                        name = f"pack {channels} {type_name} {layout}"
                        if not torch.equal(F.pack(floats), R.pack(floats)):
                            print(f"{name}: kernel {kernel} differs from the reference; nothing is timed")
                            return 1
                        report(name, kernel, partial(F.pack, floats), floats.sum, floats, options.repeats)
                values = F.unpack(bits, channels)
                name = f"unpack {channels} to float32 NHWC"
                if not torch.equal(values, R.unpack(bits, channels)):
                    print(f"{name}: kernel {kernel} differs from the reference; nothing is timed")
                    return 1
                unpack = partial(F.unpack, bits, channels)
                report(name, kernel, unpack, partial(values.fill_, 1), values, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
