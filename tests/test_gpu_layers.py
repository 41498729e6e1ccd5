"""Single launches of the GPU benchmark: right before they are timed, and judged by what bounds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_mbu.bench import gpu, gpu_launches, gpu_layers
from lightning_mbu.bench.gpu_launches import Launch, Made, distinct
from mbu_ops.cards import CARDS, H200
from mbu_ops.roofline import Layer, bytes_of, predict, read_layers

SHAPES = Path(__file__).resolve().parents[1] / "ops/bench/shapes/mbunet_256.txt"
WIDE = Layer("wide", 256, 256, 512 * 512, 1, 9, 512 * 512)
CPU = torch.device("cpu")


@pytest.mark.parametrize("layers", [launch.layers for launch in distinct(gpu.toy_layers(3, (14, 10)))])
def test_a_wrong_bit_of_a_large_image_is_not_timed(
    layers: tuple[Layer, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a kernel that small images do not reach, whichever operation it is."""
    launch, make = Launch(layers), gpu_launches.make
    x = launch.example(3, 14, 10, CPU)
    assert len(gpu_layers.checked(launch, x)()) == 3

    def wrong(launch: Launch) -> Made:
        """On the first device, above six rows."""
        made, placed = make(launch), []

        def place(device: torch.device) -> Any:
            run = made.place(device)
            placed.append(run)
            return (lambda x: run(x) + (max(x.shape) > 12)) if len(placed) == 1 else run

        return Made(place, made.expected)

    monkeypatch.setattr(gpu_layers, "make", wrong)
    with pytest.raises(RuntimeError, match=r"differs on cpu from the processor's"):
        gpu_layers.checked(launch, x)


@pytest.mark.parametrize("kind", ["stem", "pool", "masked", "binary", "up", "head"])
def test_references_of_launches_are_not_trivial(kind: str) -> None:
    """Bits or logits of both kinds, in every launch of a network with channels that do not fill their words."""
    layer = Layer("x", 40, 48, 64, 4 if kind == "up" else 1, 4 if kind == "pool" else 9, 64, kind)
    if kind == "up":
        layer = replace(layer, taps=1)
    layers = (
        (replace(layer, kind="binary"), Layer("h", 48, 2, 64, 1, 1, 64, kind)) if kind == "head" else (layer,)
    )
    launch = Launch(layers)
    x = launch.example(2, 8, 8, CPU)
    found = gpu_layers.checked(launch, x)()
    assert len(found.unique()) > 3
    assert kind == "stem" or not bool((x[..., -1] >> 8).any())


def test_as_many_images_as_the_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    monkeypatch.setattr(gpu_layers, "last_kernel", lambda: "large" if ran[-1] > 3 else "small")

    def run(bits: torch.Tensor) -> torch.Tensor:
        ran.append(len(bits))
        return bits

    assert [len(gpu_layers.fewest(run, torch.zeros(images, 1))) for images in (64, 5, 3)] == [4, 4, 1]


def test_layers_are_judged_by_what_bounds_them() -> None:
    card = replace(CARDS[0], b1=1000.0)
    ideal = 4 * WIDE.macs / 1000 / 1e6
    judged = gpu_layers.judge(Launch((WIDE,)), 1.9 * ideal, card)
    assert judged["peak"] == pytest.approx(1 / 1.9)
    assert (judged["bound"], judged["met"]) == ("arithmetic", True)
    assert gpu_layers.judge(Launch((WIDE,)), 2.1 * ideal, card)["met"] is False
    thin = Layer("thin", 32, 32, 512 * 512, 1, 1, 512 * 512)
    fast = replace(card, b1=1e6)
    judged = gpu_layers.judge(Launch((thin,)), bytes_of(thin, card) / 0.71 / card.bandwidth / 1e3, fast)
    assert (judged["bound"], judged["met"]) == ("memory", True)
    assert judged["bandwidth"] == pytest.approx(0.71)
    assert gpu_layers.judge(Launch((WIDE,)), 1.0, H200)["met"] is None


def test_float_ends_and_pools_are_judged_too() -> None:
    """The stem by float32, pools by memory, the head with the layer that computes it."""
    card, layers = replace(CARDS[0], b1=1000.0), read_layers(SHAPES, 1)
    launches = {launch.name: launch for launch in distinct(layers)}
    assert sum(len(launch.layers) for launch in launches.values()) > len(launches) > 20
    stem = gpu_layers.judge(launches["stem.conv1"], 2 * layers[0].macs / card.fp32 / 1e6, card)
    assert (stem["bound"], stem["peak"], stem["met"]) == ("arithmetic", pytest.approx(1), True)
    pool = gpu_layers.judge(launches["pool1"], 1.0, card)
    assert (pool["bound"], pool["peak"]) == ("memory", 0)
    last = gpu_layers.judge(launches["up4.block.conv2 + head"], 1.0, card)
    assert last["predicted_us"] == pytest.approx(sum(predict(layer, card).us or 0 for layer in layers[-2:]))
