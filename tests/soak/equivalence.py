"""The job `equivalence`: packed against trained, bit by bit, on every image of every data set in a folder.

The folder is MBU_DATA (`make soak ARGS="equivalence --data FOLDER"`), one data set below it each. Networks are trained
for a few steps on images of all, so that scales, thresholds and statistics have moved, then converted. `verify`
compares what every layer reads, at sizes, batch sizes and kernels that change; every kernel must give the same output.
"""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_mbu import convert, make_plan, prepare, verify
from lightning_mbu.demo.data import standardise
from lightning_mbu.deploy.packed import PackedModel
from lightning_mbu.models import MBUNet
from mbu_ops.backends import cpu_kernels, use_cpu_kernel

from .job import Report

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
LABELS = ("mask", "annot", "label", "gtfine", "ann_dir")  # folders of what is no image
SIZES = ((96, 96), (128, 160), (192, 128), (64, 224))
BATCHES = (1, 2, 3, 5)
STEPS = 20
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain": lambda: MBUNet(width=8),
    "shortcuts": lambda: MBUNet(width=8, shortcuts=True),
    "two planes": lambda: MBUNet(width=20),
    "resnet18": lambda: smp.Unet("resnet18", encoder_weights=None),
}
# Largest difference of logits of the size of 1: the float head adds in another order.
CLOSE = 1e-3


def images_of(folder: Path) -> list[Path]:
    files = (f for f in sorted(folder.rglob("*")) if f.suffix.lower() in SUFFIXES)
    return [
        f for f in files
        if not any(word in part.lower() for part in f.relative_to(folder).parts[:-1] for word in LABELS)
    ]  # fmt: skip


def read(path: Path, size: tuple[int, int]) -> Tensor:
    """float32 [3, H, W], standardised as for training."""
    with Image.open(path) as image:
        return standardise(np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)))


def trained(name: str, files: list[Path], r: random.Random) -> nn.Module:
    """A network that has learned for a few steps to tell bright from dark."""
    model = NETWORKS[name]()
    planes = 2 if name == "two planes" else 1
    prepare(model, make_plan(model, torch.empty(1, 3, 96, 96), planes=planes))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(STEPS):
        x = torch.stack([read(path, (96, 96)) for path in r.sample(files, min(4, len(files)))])
        target = (nn.functional.avg_pool2d(x.mean(1, keepdim=True), 5, 1, 2) > 0).float()
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x), target).backward()
        optimizer.step()
    return model.eval()


def batches(files: list[Path], r: random.Random) -> Iterator[Tensor]:
    left = list(files)
    while left:
        count, size = r.choice(BATCHES), r.choice(SIZES)
        taken, left = left[:count], left[count:]
        yield torch.stack([read(path, size) for path in taken])


def part(files: list[Path], turn: int, share: float) -> list[Path]:
    """The share of `files` for network `turn`; together they are all of them where each gets its own."""
    start = turn * len(files) // len(NETWORKS)
    return (files + files)[start : start + max(1, math.ceil(share * len(files)))]


class Compared:
    """Counts what was compared, and stops at what differs."""

    def __init__(self, report: Report):
        self.report, self.kernels = report, [k.name for k in cpu_kernels() if k.available]
        self.images = self.bits = self.at_rounding = self.turn = 0
        self.furthest = 0.0

    @torch.no_grad()
    def images_of_set(
        self, case: str, model: nn.Module, packed: PackedModel, files: list[Path], r: random.Random
    ) -> None:
        for x in batches(files, r):
            self.turn += 1
            kernel = self.kernels[self.turn % len(self.kernels)]
            self.report.keep(f"{case}, {list(x.shape)}, {kernel}, image {self.images}")
            with use_cpu_kernel(kernel):
                packed.tile_weights()
                found = verify(model, packed, x)
                output = packed(x)
            assert found.ok, f"{case}, {list(x.shape)}, {kernel}:\n{found}"
            self.furthest = max(self.furthest, found.output_difference / max(1.0, float(output.abs().max())))
            for other in self.kernels:
                with use_cpu_kernel(other):
                    packed.tile_weights()
                    assert torch.allclose(packed(x), output, atol=CLOSE), (
                        f"{case}: {kernel} and {other} differ"
                    )
            self.images += len(x)
            self.bits += sum(layer.bits for layer in found.layers)
            self.at_rounding += sum(layer.at_rounding for layer in found.layers)
            self.report.progress(self.images)


def run(report: Report, count: int, number: int) -> None:
    """`count` images, each through one network; every image where there are no more, and then through several."""
    root = Path(os.environ.get("MBU_DATA", BESIDE))
    sets = {f.name: images_of(f) for f in sorted(root.iterdir()) if f.is_dir()} if root.is_dir() else {}
    sets = {name: files for name, files in sets.items() if files}
    if not sets:
        report.result(f"not run: no images below {root}; name a folder of data sets with --data or MBU_DATA")
        return
    r, compared = random.Random(number), Compared(report)
    torch.manual_seed(number)
    share = min(1.0, count / (len(NETWORKS) * sum(map(len, sets.values()))))
    seen: Counter[str] = Counter()
    for files in sets.values():
        r.shuffle(files)
    for turn, name in enumerate(NETWORKS):
        model = trained(name, [file for files in sets.values() for file in files], r)
        packed = convert(model, torch.randn(1, 3, 96, 96))
        for place, files in sets.items():
            chosen = part(files, turn, share)
            compared.images_of_set(f"{name} on {place}", model, packed, chosen, r)
            seen[place] += len(chosen)
    assert compared.furthest < CLOSE, f"logits differ by {compared.furthest} of their size"
    report.result(
        f"{compared.images} images through {', '.join(NETWORKS)}: " + ", ".join(f"{n} {k}" for k, n in seen.items()),
        f"{compared.bits:,} bits, 0 mismatches, {compared.at_rounding} at the rounding of a threshold; sizes "
        + ", ".join(f"{h}x{w}" for h, w in SIZES) + f"; batches of {', '.join(map(str, BATCHES))}",
        f"each with {', '.join(compared.kernels)}; logits within {compared.furthest:.1e} of the trained network's",
    )  # fmt: skip
