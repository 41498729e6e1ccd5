"""`make gpu-bench`: one-bit layers and whole networks on a GPU, against the model and against float.

    python -m lightning_mbu.bench.gpu --results docs/results [--budget 540] [--repeats 15] [--dry]

Equality first: nothing that differs is timed. Whatever was measured is in gpu.json and gpu.md after every row, so that a
run which is cut off keeps it. The most important rows come first; where `--budget` leaves no time for others, the page
names them. `--dry` runs every step on the CPU at toy sizes and says so: for tests, and for machines without a card.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mbu_ops import fallback
from mbu_ops.backends import serving_kernel
from mbu_ops.peak import peak_rates
from mbu_ops.roofline import SIZES, Layer, read_layers

from ..atomic import write_atomically
from ..timing import conditions
from . import gpu_layers, gpu_networks, gpu_rivals
from .gpu_launches import distinct
from .gpu_page import page

SHAPES = Path(__file__).resolve().parents[2] / "ops" / "bench" / "shapes" / "mbunet_256.txt"
BUDGET_S = 540.0  # a lent card may be one for ten minutes
LATENCY, THROUGHPUT, LARGE = 1, 64, (128, 256)  # images; the last ones of Table A.2 of the MBU-Net paper
# What is compared with the processor before anything is timed: the layers of one image, and of as many as it takes for the
# kernels of a full card.
FULL = 8
CHECKED = (*((LATENCY, size) for size in SIZES), (FULL, SIZES[-1]))


class Run:
    """What was measured so far, kept on disk, and the time that is left."""

    def __init__(self, results: dict[str, Any], folder: Path, budget_s: float, shapes: Path) -> None:
        self.results, self.folder, self.shapes = results, folder, shapes
        self.end = time.monotonic() + budget_s
        self.slowest: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def save(self) -> None:
        """Both files, as they stand."""
        for name, text in (
            ("gpu.json", json.dumps(self.results, indent=1)),
            ("gpu.md", page(self.results, self.shapes)),
        ):
            write_atomically(self.folder / name, text.encode())

    def rows(self, kind: str, named: Iterable[tuple[str, Callable[[], dict[str, Any]]]]) -> None:
        """Adds a row to a list of the results for each that there is time for, by the slowest before it; what fails is
        named with the reason."""
        for name, measure in named:
            start = time.monotonic()
            if start + self.slowest.get(kind, 0.0) > self.end:
                self.results["dropped"].append([name, "no time was left"])
                continue
            try:
                self.results[kind].append(measure())
            except torch.OutOfMemoryError:
                self.results["dropped"].append([name, "memory of the card does not suffice"])
            except RuntimeError as error:
                self.refuse(name, error)
            took = time.monotonic() - start
            print(f"{name}: {took:.1f} s", file=sys.stderr, flush=True)
            self.slowest[kind] = max(self.slowest.get(kind, 0.0), took)
            self.save()

    def refuse(self, name: str, error: RuntimeError) -> None:
        """Says that something was wrong or failed."""
        self.results["dropped"].append([name, " ".join(str(error).split())[:500] or repr(error)])
        self.results["refused"] += 1


def toy_layers(images: int, size: tuple[int, int]) -> list[Layer]:
    """Of a dry run."""
    pixels = images * size[0] * size[1]
    return [
        Layer("toy stem", 3, 32, pixels, 1, 9, pixels, "stem"),
        Layer("toy", 32, 32, pixels, 1, 9, pixels),
        Layer("toy pool", 32, 32, pixels // 4, 1, 4, pixels, "pool"),
        Layer("toy up", 32, 16, pixels, 4, 1, pixels, "up"),
        Layer("toy last", 16, 16, pixels, 1, 9, pixels, "binary"),
        Layer("toy head", 16, 1, pixels, 1, 1, pixels, "head"),
    ]


def networks(dry: bool) -> tuple[torch.nn.Module, torch.nn.Module, Any]:
    """The float network, its one-bit twin and the packed one."""
    from .models import twins

    return twins("mbunet", 3, arguments={"width": 4} if dry else None)


def measure(run: Run, device: torch.device, repeats: int, dry: bool) -> None:
    """Fills `run.results`: `peaks`, `copy`, `checked`, and rows of `networks`, `layers` and `products`; `dropped` has
    what was not measured and why, `refused` the number of those that were wrong or failed."""
    results, peaks = run.results, []
    if not dry:
        torch.backends.cudnn.benchmark = True  # the float networks' fastest convolutions
        try:
            peaks = peak_rates(device)
        except RuntimeError as error:
            run.refuse("instructions", error)
        results["peaks"] = [asdict(peak) for peak in peaks]
    results["copy"] = gpu_rivals.copy_rate(device, repeats)
    run.save()
    card = gpu_rivals.card_of(device, peaks, results["copy"])
    energy = gpu_networks.Energy(device)
    results["conditions"] |= {
        "kernels": serving_kernel("cpu" if dry else str(device)) if card is None else card.family,
        "energy": energy.why or "the card's own counter",
    }
    model, one_bit, packed = networks(dry)
    checked = False
    try:
        found = gpu_networks.check(one_bit, packed, device, () if dry else CHECKED)
        checked = True
        results["conditions"]["equality"] = (
            f"{found['bits']} bits of the packed network are its trained twin's; its logits on the card differ by "
            f"{found['logits']:.1g} of the largest from the processor's"
        )
    except RuntimeError as error:
        run.refuse("networks", error)
    packed = packed.to(device)
    sizes = ((32, 32),) if dry else SIZES[::-1]
    batches, large = ((1,), ()) if dry else ((LATENCY, THROUGHPUT), LARGE)

    def compare(images: int, size: tuple[int, int], rival: str) -> tuple[str, Callable[[], dict[str, Any]]]:
        name = f"{images} x {size[1]}x{size[0]} against {rival}"
        return name, lambda: gpu_networks.network_row(
            model, packed, images, size, rival, device, repeats, energy, dry
        )

    def layers_of(images: int, size: tuple[int, int]) -> list[Layer]:
        return toy_layers(images, size) if dry else read_layers(run.shapes, images, size)

    if checked:
        first = "bf16" if dry else "fp16"  # processors without fp16 are slow at it
        run.rows("networks", [compare(n, size, first) for size in sizes for n in batches])
    run.rows(
        "layers",
        (
            (
                f"{launch.name}, {n} x {size[1]}x{size[0]}",
                lambda launch=launch, n=n, size=size: gpu_layers.layer_row(
                    launch, n, size, device, card, repeats
                ),
            )
            for size in sizes
            for n in batches
            for launch in distinct(layers_of(n, size))
        ),
    )
    shapes = gpu_rivals.timed_shapes(
        layer for n in (*batches, *large) for size in sizes for layer in layers_of(n, size)
    )
    run.rows(
        "products",
        (
            (f"product {shape}", lambda shape=shape: gpu_rivals.product_row(shape, device, repeats))
            for shape in shapes
        ),
    )
    if checked and not dry:
        run.rows("networks", [compare(n, size, "bf16") for size in sizes for n in batches])
        run.rows("networks", [compare(n, size, "fp16") for n in large for size in sizes])


def main(arguments: list[str] | None = None) -> int:
    """Writes `gpu.json` and `gpu.md` into the results folder.

    Returns:
        1 where there is no GPU and no `--dry`, or where something was wrong; what was right is written all the same.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="folder for gpu.json and gpu.md")
    parser.add_argument("--repeats", type=int, default=15, help="rounds")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for the whole run")
    parser.add_argument("--dry", action="store_true", help="every step on the CPU at toy sizes")
    options = parser.parse_args(arguments)
    if not options.dry and not torch.cuda.is_available():
        print(
            "gpu-bench needs an NVIDIA GPU and the CUDA build of torch; --dry runs its steps on the CPU.",
            file=sys.stderr,
        )
        return 1
    device = torch.device("cpu" if options.dry else "cuda:0")
    changed = [
        f"--{name} {getattr(options, name):g}"
        for name in ("repeats", "budget")
        if getattr(options, name) != parser.get_default(name)
    ]
    results: dict[str, Any] = {
        "schema": 1,
        "command": "make gpu-bench" + (f" ARGS='{' '.join(changed)}'" if changed else ""),
        "dry": options.dry,
        "conditions": conditions(device, torch.get_num_threads()),
        "peaks": [], "copy": None, "networks": [], "layers": [], "products": [], "dropped": [], "refused": 0,
    }  # fmt: skip
    run = Run(results, options.results, options.budget, SHAPES)
    start = time.monotonic()
    try:
        measure(run, device, options.repeats, options.dry)
    finally:
        fallen = [
            f"{name} ({why})" for (name, place), why in fallback.reasons.items() if place == str(device)
        ]
        results["conditions"] |= {
            "operations that torch runs": ", ".join(fallen) or "none",
            "took": f"{time.monotonic() - start:.0f} s",
        }
        run.save()
        print(page(results, SHAPES))
    return 1 if results["refused"] else 0


if __name__ == "__main__":
    sys.exit(main())
