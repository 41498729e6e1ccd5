"""A model of one-bit convolutions on GPUs: instructions, bytes and launches of a layer, and the time they bound.

    python -m mbu_ops.roofline [--card A100] [--shapes ops/bench/shapes/mbunet_256.txt] [--batch 1]

Nothing here is measured. Arithmetic counts whole tiles (pixels, channels, 256 bits of K) and the blocks of the
busiest multiprocessor at the card's peak; memory counts every byte once; a layer takes at least the larger of the two. Launches are counted and
not timed: what one costs is for `make gpu-bench` to measure.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

STAGE_BITS = 256  # K of one step of the pipeline, csrc/cuda/conv2d/tile.h


@dataclass(frozen=True)
class Card:
    """Peaks of a card, dense.

    Attributes:
        family: the kernels that run there (csrc/cuda/choices.inc).
        multiprocessors: their number.
        fp16, int8, b1: 10^12 operations a second of the tensor cores (fp16 with fp32 sums), None where unknown.
        bandwidth: of its memory, 10^9 bytes a second.
        source: of the numbers.
    """

    name: str
    capability: int
    family: str
    multiprocessors: int
    fp16: float
    int8: float
    b1: float | None
    bandwidth: float
    source: str


CARDS = (
    Card("A100", 80, "sm80_xor", 108, 312, 624, 4992, 1555, "NVIDIA A100 whitepaper, 40 GB"),
    Card("RTX 2080 Ti", 75, "sm75_xor", 68, 53.8, 215, 2088, 616, "NVIDIA Turing whitepaper, GTC talk (b1)"),
    Card("RTX 4090", 89, "sm80_xor", 128, 165.2, 660.6, 5285, 1008, "NVIDIA Ada whitepaper; b1 taken as 8 x int8"),
    Card("Orin Nano 8 GB", 87, "sm80_xor", 8, 10.2, 20.4, 163, 68, "NVIDIA Orin data sheet; b1 taken as 8 x int8"),
    Card("H200", 90, "sm90_and", 132, 989, 1979, None, 4800, "NVIDIA H200 data sheet; b1 unpublished"),
)  # fmt: skip

_TILES = ("128x64", "64x64", "32x32")


@dataclass(frozen=True)
class Tile:
    """What a block computes."""

    name: str
    pixels: int
    channels: int
    fewest_blocks: int  # per multiprocessor, csrc/cuda/choices.inc


@dataclass(frozen=True)
class Convolution:
    """A layer: `pixels` outputs of one pass in all images, `passes` of them, `taps` seen by each output."""

    name: str
    channels: int
    out_channels: int
    pixels: int
    passes: int
    taps: int
    input_pixels: int

    @property
    def macs(self) -> int:
        """Multiply-adds of the float layer."""
        return self.pixels * self.passes * self.taps * self.channels * self.out_channels


@dataclass(frozen=True)
class Prediction:
    """Bounds of a layer on a card, microseconds; None where a peak is unknown.

    Attributes:
        tile: the kernel's.
        arithmetic_us, memory_us: of the one-bit layer.
        useful: share of the tensor cores' products that belong to the layer.
        fp16_us, int8_us: the same bounds for the float and the int8 layer, at full tiles.
    """

    tile: str
    blocks: int
    arithmetic_us: float | None
    memory_us: float
    useful: float
    fp16_us: float
    int8_us: float

    @property
    def us(self) -> float | None:
        """What bounds the one-bit layer."""
        return None if self.arithmetic_us is None else max(self.arithmetic_us, self.memory_us)


def _up(value: int, step: int) -> int:
    return -(-value // step)


def tiles_of(family: str) -> list[Tile]:
    """The tiles of a family, largest first, from the lists that the library is built from.

    Raises:
        FileNotFoundError: outside of a source tree.
    """
    folder = Path(__file__).resolve().parents[1] / "csrc" / "cuda"
    kernels, choices = (folder / "kernels.inc").read_text(), (folder / "choices.inc").read_text()
    tiles = []
    for name in _TILES:
        line = re.search(
            rf'\(conv2d_{name}_bits_v4__{family}, [^,]+, "[^"]+", \w+, \d+, \d+, (\d+), (\d+)\)', kernels
        )
        fewest = re.search(rf"^MBU_CUDA_TILE\({name}, (\d+)\)", choices, re.MULTILINE)
        assert line is not None and fewest is not None, f"kernels.inc or choices.inc lacks {name} of {family}"
        tiles.append(Tile(name, int(line[1]), int(line[2]), int(fewest[1])))
    return tiles


def choose(layer: Convolution, card: Card) -> tuple[Tile, int]:
    """The tile that csrc/cuda/choose.cpp takes, and its blocks."""
    for tile in tiles_of(card.family):
        blocks = _up(layer.pixels, tile.pixels) * _up(layer.out_channels, tile.channels) * layer.passes
        if blocks >= tile.fewest_blocks * card.multiprocessors:
            break
    return tile, blocks


def predict(layer: Convolution, card: Card) -> Prediction:
    """Bounds of `layer` on `card`; bits in, bits out."""
    tile, blocks = choose(layer, card)
    stages = _up(layer.taps * _up(layer.channels, 32) * 32, STAGE_BITS)
    # Two planes of one-bit products, or one product of bytes.
    products = tile.pixels * tile.channels * stages * STAGE_BITS * (1 if card.family.endswith("int8") else 2)
    peak = card.int8 if card.family.endswith("int8") else card.b1
    # The busiest multiprocessor sets the time, however many of its blocks run side by side.
    issued = _up(blocks, card.multiprocessors) * card.multiprocessors * products
    words = (
        _up(layer.channels, 32) * layer.input_pixels
        + _up(layer.out_channels, 32) * layer.pixels * layer.passes
    )
    weight_bits = 2 * layer.taps * max(1, layer.passes) * layer.channels * layer.out_channels
    values = layer.channels * layer.input_pixels + layer.out_channels * layer.pixels * layer.passes
    weights = weight_bits // 2

    def bound(operations: float, bytes_moved: float) -> float:
        return max(2 * layer.macs / operations / 1e6, bytes_moved / card.bandwidth / 1e3)

    return Prediction(
        tile=tile.name,
        blocks=blocks,
        arithmetic_us=None if peak is None else 2 * issued / peak / 1e6,
        memory_us=(4 * words + weight_bits / 8) / card.bandwidth / 1e3,
        useful=2 * layer.macs / issued if not card.family.endswith("int8") else layer.macs / issued,
        fp16_us=bound(card.fp16, 2 * (values + weights)),
        int8_us=bound(card.int8, values + weights),
    )


def read_layers(path: Path, batch: int) -> list[Convolution]:
    """Layers of a shapes file (ops/bench/shapes): name C OC H W kernel stride padding transposed."""
    layers = []
    for text in path.read_text().splitlines():
        fields = text.split("#")[0].split()
        if not fields:
            continue
        channels, out, height, width, kernel, stride, padding, transposed = map(int, fields[1:9])
        pixels = batch * height * width
        if transposed:
            layers.append(Convolution(fields[0], channels, out, pixels, stride**2, 1, pixels))
        else:
            outputs = batch * ((height + 2 * padding - kernel) // stride + 1) * (
                (width + 2 * padding - kernel) // stride + 1
            )  # fmt: skip
            layers.append(Convolution(fields[0], channels, out, outputs, 1, kernel**2, pixels))
    return layers


def table(layers: list[Convolution], cards: tuple[Card, ...] = CARDS) -> str:
    """The predictions as Markdown."""
    lines = []
    for card in cards:
        lines += [
            f"### {card.name}",
            "",
            f"Peaks: {card.source}. Kernels: `{card.family}`. Predicted, not measured.",
            "",
        ]
        lines += ["| layer | tile | blocks | useful | b1 arithmetic | memory | fp16 | int8 | fp16 / b1 |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        total, fp16, int8 = 0.0, 0.0, 0.0
        for layer in layers:
            p = predict(layer, card)
            ours = "unknown" if p.arithmetic_us is None else f"{p.arithmetic_us:.1f}"
            speed = "unknown" if p.us is None else f"{p.fp16_us / p.us:.1f}"
            lines.append(
                f"| {layer.name} | {p.tile} | {p.blocks} | {p.useful:.0%} | {ours} | {p.memory_us:.1f} | "
                f"{p.fp16_us:.1f} | {p.int8_us:.1f} | {speed} |"
            )
            total, fp16, int8 = total + (p.us or 0), fp16 + p.fp16_us, int8 + p.int8_us
        ours, speed = (f"{total:.1f}", f"{fp16 / total:.1f}") if card.b1 else ("unknown", "unknown")
        lines += [f"| all, {len(layers)} launches | | | | {ours} | | {fp16:.1f} | {int8:.1f} | {speed} |", ""]
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--card", help="one card, by the start of its name")
    parser.add_argument("--shapes", type=Path, default=root / "bench" / "shapes" / "mbunet_256.txt")
    parser.add_argument("--batch", type=int, default=1, help="images")
    options = parser.parse_args()
    cards = tuple(card for card in CARDS if card.name.startswith(options.card or ""))
    print(table(read_layers(options.shapes, options.batch), cards))


if __name__ == "__main__":
    main()
