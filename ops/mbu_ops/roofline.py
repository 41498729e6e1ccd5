"""A model of packed networks on GPUs: instructions, bytes and launches of every layer, and the time they bound.

    python -m mbu_ops.roofline [--card A100] [--shapes ops/bench/shapes/mbunet_256.txt]

Nothing here is measured. Arithmetic counts whole tiles (pixels, channels, 128 bits of K) and the blocks of the busiest
multiprocessor at the card's peak; memory counts every byte once; a layer takes at least the larger of the two. Launches are
counted and not timed: `make gpu-bench` measures them. The first convolution is taken to be the stem kernel, on the ordinary
float units, and the head part of the last layer's launch, as the library has them.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .cards import ASSUMED, PREDICTED, Card

PRODUCT_BITS, PRODUCT_BYTES = 128, 32  # K of the shortest product, csrc/cuda/conv2d/multiply.h
STEM_CHANNELS = 64  # of a warp, csrc/cuda/stem/stem__sm75.cu
FLOAT32_BYTES = WORD_BYTES = 4

# Height and width of the MBU-Net paper's images, up to multiples of 16, and numbers of images.
SIZES = ((640, 960), (480, 640), (512, 512))
BATCHES = (1, 64)
LAYER_SIZE = (512, 512)  # of the tables of single layers
_TILES = ("128x64", "64x64", "32x32")


@dataclass(frozen=True)
class Tile:
    """What a block computes."""

    name: str
    pixels: int
    channels: int
    fewest_blocks: int  # per multiprocessor, csrc/cuda/choices.inc


@dataclass(frozen=True)
class Layer:
    """A layer: `pixels` outputs of one pass in all images, `passes` of them, `taps` seen by each output.

    Attributes:
        kind: `masked`, `binary` (no zeros) and `up` (transposed, masked) are one-bit, `pool` has bits, `stem` and `head` are
            the float layers at the ends; `head` is no launch of its own.
    """

    name: str
    channels: int
    out_channels: int
    pixels: int
    passes: int
    taps: int
    input_pixels: int
    kind: str = "masked"

    @property
    def one_bit(self) -> bool:
        return self.kind in ("masked", "binary", "up")

    @property
    def weights(self) -> int:
        return 0 if self.kind == "pool" else self.taps * self.passes * self.channels * self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-adds of the float layer."""
        return self.pixels * self.weights


@dataclass(frozen=True)
class Prediction:
    """Bounds of a layer on a card, microseconds; None where a peak is unknown.

    Attributes:
        tile: the kernel's, of one-bit layers.
        arithmetic_us, memory_us: of the packed layer.
        useful: share of the products done that belong to the layer.
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
        """What bounds the packed layer."""
        return None if self.arithmetic_us is None else max(self.arithmetic_us, self.memory_us)


def _up(value: int, step: int) -> int:
    return -(-value // step)


@functools.cache
def tiles_of(family: str) -> tuple[Tile, ...]:
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
    return tuple(tiles)


def choose(layer: Layer, card: Card) -> tuple[Tile, int]:
    """The tile that csrc/cuda/choose.cpp takes, and its blocks."""
    for tile in tiles_of(card.family):
        blocks = _up(layer.pixels, tile.pixels) * _up(layer.out_channels, tile.channels) * layer.passes
        if blocks >= tile.fewest_blocks * card.multiprocessors:
            break
    return tile, blocks


def products_of(layer: Layer, card: Card) -> int:
    """Of each multiply-add of a packed layer: two planes of bits, but one of bytes, and one where no weight is zero."""
    single = card.family.endswith("int8") or layer.kind == "binary"
    return 2 if layer.one_bit and not single else 1


def bytes_of(layer: Layer, card: Card) -> int:
    """What a packed layer reads and writes; bits in, bits out, but for the image and the logits."""
    reads = WORD_BYTES * _up(layer.channels, 32) * layer.input_pixels
    writes = WORD_BYTES * _up(layer.out_channels, 32) * layer.pixels * layer.passes
    if layer.kind == "stem":
        reads = FLOAT32_BYTES * layer.channels * layer.input_pixels
    if layer.kind == "head":  # the last layer's result is in the block that made it
        reads, writes = 0, FLOAT32_BYTES * layer.out_channels * layer.pixels
    bits = 8 * FLOAT32_BYTES
    if layer.one_bit:
        bits = 8 if card.family.endswith("int8") else products_of(layer, card)
    return reads + writes + _up(bits * layer.weights, 8)


def operations_of(layer: Layer, card: Card) -> int:
    """That belong to a packed layer, two for each product."""
    return 2 * products_of(layer, card) * layer.macs


def predict(layer: Layer, card: Card) -> Prediction:
    """Bounds of `layer` on `card`."""
    tile, blocks, issued, peak = "", 0, operations_of(layer, card), card.fp32
    if layer.one_bit:
        own, blocks = choose(layer, card)
        step = PRODUCT_BYTES if card.family.endswith("int8") else PRODUCT_BITS
        k = _up(layer.taps * _up(layer.channels, 32) * 32, step) * step
        whole = replace(layer, channels=k, taps=1, passes=1, out_channels=own.channels, pixels=own.pixels)
        # The busiest multiprocessor sets the time, however many of its blocks run side by side.
        issued = _up(blocks, card.multiprocessors) * card.multiprocessors * operations_of(whole, card)
        tile, peak = own.name, card.int8 if card.family.endswith("int8") else card.b1
    elif layer.kind == "stem":
        issued = issued // layer.out_channels * _up(layer.out_channels, STEM_CHANNELS) * STEM_CHANNELS
    values = layer.channels * layer.input_pixels + layer.out_channels * layer.pixels * layer.passes

    def bound(rate: float, bytes_each: int) -> float:
        moved = bytes_each * (values + layer.weights)
        return max(2 * layer.macs / rate / 1e6, moved / card.bandwidth / 1e3)

    return Prediction(
        tile=tile,
        blocks=blocks,
        arithmetic_us=None if peak is None else issued / peak / 1e6,
        memory_us=bytes_of(layer, card) / card.bandwidth / 1e3,
        useful=operations_of(layer, card) / issued if issued else 1.0,
        fp16_us=bound(card.fp16, 2),
        int8_us=bound(card.int8, 1),
    )


def read_layers(path: Path, batch: int, size: tuple[int, int] | None = None) -> list[Layer]:
    """Layers of a shapes file (ops/bench/shapes): name C OC H W kernel stride padding kind.

    Args:
        path, batch: the file, and how many images.
        size: height and width of the image, instead of that of the file, which its first layer reads.

    Raises:
        ValueError: a layer has other columns, as those of dilation and groups that `ops/bench` takes.
    """
    rows = [row for text in path.read_text().splitlines() if (row := text.split("#")[0].split())]
    first = int(rows[0][3]), int(rows[0][4])
    layers = []
    for name, *numbers, kind in rows:
        if len(numbers) != 7:
            raise ValueError(f"{path}: {name} must have 7 numbers: dilation and groups are not known here.")
        channels, out, height, width, kernel, stride, padding = map(int, numbers)
        height, width = (
            side * to // of for side, to, of in zip((height, width), size or first, first, strict=True)
        )
        pixels = batch * height * width
        if kind == "up":
            layers.append(Layer(name, channels, out, pixels, stride**2, 1, pixels, kind))
        else:
            outputs = batch * ((height + 2 * padding - kernel) // stride + 1) * (
                (width + 2 * padding - kernel) // stride + 1
            )  # fmt: skip
            layers.append(Layer(name, channels, out, outputs, 1, kernel**2, pixels, kind))
    return layers


def network_us(layers: Sequence[Layer], card: Card) -> tuple[float, float, float]:
    """What bounds all layers one after the other, microseconds: packed, in fp16, in int8.

    Raises:
        ValueError: the card's one-bit rate is unknown.
    """
    packed, fp16, int8 = 0.0, 0.0, 0.0
    for layer in layers:
        p = predict(layer, card)
        if p.us is None:
            raise ValueError(
                f"the one-bit rate of {card.name} is unknown; assume one (mbu_ops.cards.ASSUMED)."
            )
        packed, fp16, int8 = packed + p.us, fp16 + p.fp16_us, int8 + p.int8_us
    return packed, fp16, int8


def network_table(
    shapes: Path, size: tuple[int, int], cards: Sequence[Card], batches: Sequence[int]
) -> list[str]:
    """Markdown: the whole network on every card, milliseconds per image."""
    lines = [
        "| card | images | one-bit ms | fp16 ms | int8 ms | fp16 / one-bit | int8 / one-bit |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in cards:
        for batch in batches:
            packed, fp16, int8 = network_us(read_layers(shapes, batch, size), card)
            times = " | ".join(f"{us / batch / 1e3:.3f}" for us in (packed, fp16, int8))
            lines.append(f"| {card.name} | {batch} | {times} | {fp16 / packed:.1f} | {int8 / packed:.1f} |")
    return [*lines, ""]


def layer_table(layers: Sequence[Layer], card: Card) -> list[str]:
    """Markdown: every layer on one card, microseconds."""
    lines = [f"Peaks: {card.source}. Kernels: `{card.family}`. Predicted, not measured.", ""]
    lines += ["| layer | tile | blocks | useful | arithmetic | memory | fp16 | int8 | fp16 / one-bit |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for layer in layers:
        p = predict(layer, card)
        assert p.us is not None and p.arithmetic_us is not None
        lines.append(
            f"| {layer.name} | {p.tile} | {p.blocks or ''} | {p.useful:.0%} | {p.arithmetic_us:.1f} | {p.memory_us:.1f} | "
            f"{p.fp16_us:.1f} | {p.int8_us:.1f} | {p.fp16_us / p.us:.1f} |"
        )
    packed, fp16, int8 = network_us(layers, card)
    launches = sum(layer.kind != "head" for layer in layers)
    lines.append(
        f"| all, {launches} launches | | | | {packed:.1f} | | {fp16:.1f} | {int8:.1f} | {fp16 / packed:.1f} |"
    )
    return [*lines, ""]


def page(shapes: Path, cards: Sequence[Card] = PREDICTED) -> str:
    """Every prediction as Markdown: networks at `SIZES`, layers at `LAYER_SIZE`."""
    lines = []
    for height, width in SIZES:
        lines += [f"## {width}x{height}", "", *network_table(shapes, (height, width), cards, BATCHES)]
    height, width = LAYER_SIZE
    for card in cards:
        if card not in ASSUMED[1:]:
            lines += [f"## Layers on {card.name}, one image of {width}x{height}", ""]
            lines += layer_table(read_layers(shapes, 1, LAYER_SIZE), card)
    return "\n".join(lines)


def main() -> None:  # prints the page
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--card", default="", help="one card, by the start of its name")
    parser.add_argument("--shapes", type=Path, default=root / "bench" / "shapes" / "mbunet_256.txt")
    options = parser.parse_args()
    print(page(options.shapes, [card for card in PREDICTED if card.name.startswith(options.card)]))


if __name__ == "__main__":
    main()
