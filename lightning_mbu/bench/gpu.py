"""`make gpu-bench`: one-bit convolutions and whole networks on a GPU, against the model and against float.

    python -m lightning_mbu.bench.gpu --results docs/results [--dry]

Equality first: a layer that differs from the reference by one bit ends the run. Layers are timed inside a CUDA graph, so
that what one costs is the card's time and not Python's. `--dry` runs every step on the CPU at toy sizes and writes nothing
but a page that says so: for tests, and for machines without a card.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from mbu_ops import pack_bits, pack_weight, reference
from mbu_ops.cards import CARDS, Card
from mbu_ops.roofline import Layer, predict, read_layers

from ..timing import Timing, conditions, time_interleaved
from .gpu_rivals import Call, byte_rows, captured, peak_rows, synchronise

SHAPES = Path(__file__).resolve().parents[2] / "ops" / "bench" / "shapes" / "mbunet_256.txt"
# Height and width of the MBU-Net paper's images, up to multiples of 16.
SIZES = ((640, 960), (480, 640), (512, 512))
BATCHES = (1, 64)


def card_of(device: torch.device) -> Card | None:
    """The model's entry for a card, if it has one."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).replace("GeForce ", "")
    return next((card for card in CARDS if card.name.split(" GB")[0] in name), None)


def layer_call(layer: Layer, side: tuple[int, int], device: torch.device) -> Call:
    """A layer of random bits and weights with thresholds, checked against the reference on a small image first.

    Raises:
        RuntimeError: some bit differs.
    """
    kernel = 2 if layer.passes > 1 else round(layer.taps**0.5)
    weight = pack_weight(torch.randint(-1, 2, (layer.out_channels, layer.channels, kernel, kernel)))
    threshold = torch.zeros(1, layer.out_channels, dtype=torch.int32)
    flip = torch.zeros(1, -(-layer.out_channels // 32), dtype=torch.int32)
    tiles, limits, flips = (
        torch.ops.mbu.tile_weight(weight.to(device)),
        threshold.to(device),
        flip.to(device),
    )
    pad = kernel // 2

    def run(bits: Tensor) -> Tensor:
        if layer.passes > 1:
            return torch.ops.mbu.conv_transpose2d_threshold(
                [bits], tiles, limits, flips, layer.out_channels, [2, 2], [2, 2], [0, 0], [0, 0], [1, 1]
            )
        size, step = [kernel] * 2, [1, 1]
        return torch.ops.mbu.conv2d_threshold(
            [bits], tiles, limits, flips, layer.out_channels, size, step, [pad, pad], [1, 1]
        )

    small = pack_bits(torch.rand(1, 6, 6, layer.channels) < 0.5)
    if layer.passes > 1:
        expected = reference.conv_transpose2d_threshold(small, weight, threshold, flip, 2)
    else:
        expected = reference.conv2d_threshold(small, weight, threshold, flip, 1, pad)
    if not torch.equal(run(small.to(device)).cpu(), expected):
        raise RuntimeError(f"{layer.name} differs from the reference on {device}; nothing is timed")
    bits = pack_bits(torch.rand(1, *side, layer.channels) < 0.5).to(device)
    return lambda: run(bits)


def layer_rows(layers: list[Layer], device: torch.device, repeats: int) -> list[str]:
    """Markdown rows: layer, measured median, predicted bounds, share of the bound reached."""
    card, rows = card_of(device), []
    for layer in layers:
        side = round(layer.input_pixels**0.5)
        call = captured(layer_call(layer, (side, side), device), device)
        timing = time_interleaved({"b1": call}, repeats, synchronise=lambda: synchronise(device))["b1"]
        row = f"| {layer.name} | {1e3 * timing.median:.1f} | {layer.macs / timing.median / 1e9:.2f} |"
        if card is None:
            rows.append(f"{row} - | - | - |")
            continue
        p = predict(layer, card)
        arithmetic = "unknown" if p.arithmetic_us is None else f"{p.arithmetic_us:.1f}"
        reached = "unknown" if p.us is None else f"{p.us / (1e3 * timing.median):.0%}"
        rows.append(f"{row} {arithmetic} | {p.memory_us:.1f} | {reached} |")
    return rows


def energy_j(call: Call, calls: int, device: torch.device) -> float | None:
    """Joules per call by the card's own counter; None without a card or without nvidia-ml-py."""
    if device.type != "cuda":
        return None
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(device.index or 0)
    synchronise(device)
    before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # millijoules
    for _ in range(calls):
        call()
    synchronise(device)
    return (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1e3 / calls


def candidates(model: nn.Module, packed: nn.Module, x: Tensor, dry: bool) -> dict[str, Call]:
    """The packed network and the float one in half precision, each compiled with CUDA graphs."""
    device = x.device
    mode = None if dry else "reduce-overhead"

    def compiled(module: nn.Module) -> nn.Module:
        return module if dry else torch.compile(module, mode=mode)  # pyright: ignore[reportReturnType]

    calls: dict[str, Call] = {}
    one_bit = compiled(packed.to(device))
    calls["one-bit"] = lambda: one_bit(x)
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        if dry and dtype == torch.float16:
            continue  # slow on processors without it
        half = compiled(copy.deepcopy(model).to(device, dtype).to(memory_format=torch.channels_last))
        images = x.to(dtype).contiguous(memory_format=torch.channels_last)
        calls[name] = lambda half=half, images=images: half(images)
    return calls


@torch.inference_mode()
def network_rows(
    model: nn.Module, packed: nn.Module, shapes: list[tuple[int, int, int]], device: torch.device, repeats: int,
    dry: bool,
) -> list[str]:  # fmt: skip
    """Markdown rows: batch and size, candidate, ms and joules per image."""
    rows = []
    for batch, height, width in shapes:
        x = torch.randn(batch, 3, height, width, device=device)
        calls = candidates(copy.deepcopy(model), copy.deepcopy(packed), x, dry)
        timings: dict[str, Timing] = time_interleaved(calls, repeats, synchronise=lambda: synchronise(device))
        for name, timing in timings.items():
            low, high = timing.spread
            joules = energy_j(calls[name], max(1, round(500 / timing.median)), device)
            energy = "-" if joules is None else f"{joules / batch:.4f}"
            rows.append(
                f"| {batch} x {width}x{height} | {name} | {timing.median / batch:.3f} | "
                f"{low / batch:.3f} to {high / batch:.3f} | {energy} |"
            )
    return rows


def page(device: torch.device, repeats: int, dry: bool) -> str:
    """The results as Markdown."""
    from ..models import MBUNet
    from ..plan import make_plan
    from ..prepare import prepare
    from .models import settle, twins

    layers = [layer for layer in read_layers(SHAPES, 1) if layer.one_bit]
    if dry:
        layers = [Layer("toy", 32, 32, 64, 1, 9, 64), Layer("toy up", 32, 32, 16, 4, 1, 16)]
        from ..deploy import convert

        model = settle(MBUNet(width=4), 3)
        example = torch.randn(1, 3, 64, 64)
        one_bit = prepare(MBUNet(width=4), make_plan(model, example))
        packed, shapes = convert(settle(one_bit, 3), example), [(1, 32, 32)]
    else:
        model, _, packed = twins("mbunet", 3)
        shapes = [(batch, *size) for size in SIZES for batch in BATCHES]
    lines = ["# One-bit networks on a GPU", ""]
    if dry:
        lines += ["A dry run on the CPU at toy sizes: none of these numbers is a result.", ""]
    lines += [f"- {name}: {value}" for name, value in conditions(device, torch.get_num_threads()).items()]
    lines += [
        "",
        "## Instructions on registers alone",
        "",
        "| instruction | 10^12 operations/s |",
        "|---|---|",
    ]
    lines += peak_rows(device)
    lines += ["", "## Layers of MBU-Net, one image of 256x256, in a CUDA graph", ""]
    lines += ["| layer | median us | TMAC/s | predicted arithmetic us | memory us | reached |"]
    lines += ["|---|---|---|---|---|---|", *layer_rows(layers, device, repeats)]
    lines += ["", "## The same sums in 8 bits, as matrix products of torch", ""]
    lines += ["Without the copies that make a matrix of an image, so a bound that favours them.", ""]
    lines += ["| layer | int8 us | fp8 us |", "|---|---|---|", *byte_rows(layers, device, repeats)]
    lines += ["", "## MBU-Net, width 64", ""]
    lines += ["| images | network | median ms per image | quartiles | J per image |", "|---|---|---|---|---|"]
    lines += network_rows(model, packed, shapes, device, repeats, dry)
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> int:
    """Writes `gpu.md` into the results folder; 1 where there is no GPU and no `--dry`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="folder for gpu.md")
    parser.add_argument("--repeats", type=int, default=15, help="rounds")
    parser.add_argument("--dry", action="store_true", help="every step on the CPU at toy sizes")
    options = parser.parse_args(arguments)
    if not options.dry and not torch.cuda.is_available():
        print(
            "gpu-bench needs an NVIDIA GPU and the CUDA build of torch; --dry runs its steps on the CPU.",
            file=sys.stderr,
        )
        return 1
    device = torch.device("cpu" if options.dry else "cuda:0")
    text = page(device, options.repeats, options.dry)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "gpu.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
