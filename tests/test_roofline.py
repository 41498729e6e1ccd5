"""The model of layers and networks on GPUs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_mbu import make_plan, summary
from lightning_mbu.models import MBUNet
from mbu_ops.cards import ASSUMED, CARDS, H200
from mbu_ops.roofline import Layer, choose, network_us, page, predict, products_of, read_layers, tiles_of

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ROOT / "ops/bench/shapes/mbunet_256.txt"
WIDE = Layer("wide", 256, 256, 512 * 512, 1, 9, 512 * 512)


def test_bounds_follow_from_counts() -> None:
    """A layer of whole tiles is bound by its products: 2 planes x 2 operations x multiply-adds at the peak."""
    for card in CARDS:
        p = predict(WIDE, card)
        if card.b1 is None:
            assert p.us is None
            continue
        ideal = 4 * WIDE.macs / card.b1 / 1e6
        assert p.arithmetic_us == pytest.approx(ideal / p.useful)
        assert 0.9 < p.useful <= 1
        assert p.us == max(p.arithmetic_us or 0, p.memory_us)
    # Three channels still cost a word of K, and nine words as much as twelve, but not where words are products.
    thin = Layer("thin", 3, 256, 512 * 512, 1, 9, 512 * 512)
    assert predict(thin, CARDS[0]).useful == pytest.approx(3 * 9 / 384, rel=0.02)
    assert predict(thin, replace(CARDS[0], family="sm80_int8")).useful == pytest.approx(3 / 32, rel=0.02)


def test_small_layers_take_small_tiles() -> None:
    names = [tile.name for tile in tiles_of("sm80_xor")]
    assert names == ["128x64", "64x64", "32x32"]
    assert choose(WIDE, CARDS[0])[0].name == "128x64"
    assert choose(Layer("tiny", 64, 64, 64, 1, 9, 64), CARDS[0])[0].name == "32x32"


def test_the_shapes_file_is_the_network() -> None:
    """Its 21 one-bit layers, stem and head; pools halve, and are no layers of the summary."""
    found = {layer.name: layer for layer in read_layers(SHAPES, 1) if layer.kind != "pool"}
    model = MBUNet()
    kinds = {choice.name: choice.kind for choice in make_plan(model, torch.empty(1, 3, 256, 256)).layers}
    expected = summary(model, (1, 3, 256, 256)).layers
    assert [layer.name for layer in expected] == list(found)
    for layer in expected:
        mine = found[layer.name]
        ins, outs = (0, 1) if mine.kind == "up" else (1, 0)
        assert kinds[layer.name] == {"up": "masked", "stem": "float", "head": "float"}.get(
            mine.kind, mine.kind
        )
        assert (mine.channels, mine.out_channels) == (layer.weight_shape[ins], layer.weight_shape[outs])
        assert (mine.macs, mine.pixels * mine.passes) == (layer.macs, math.prod(layer.shape[2:]))
    assert sum(layer.one_bit for layer in found.values()) == 21
    larger = read_layers(SHAPES, 3, (640, 960))
    assert sum(layer.macs for layer in larger) * 256 * 256 == 3 * 640 * 960 * sum(
        layer.macs for layer in found.values()
    )


def test_the_ends_of_the_network_are_float() -> None:
    first, *_, head = read_layers(SHAPES, 1, (512, 512))
    stem = predict(first, CARDS[0])
    assert stem.arithmetic_us == pytest.approx(2 * first.macs / CARDS[0].fp32 / 1e6)
    assert stem.memory_us == pytest.approx((512 * 512 * (3 * 4 + 64 / 8) + 27 * 64 * 4) / 1555e3)
    assert predict(head, CARDS[0]).memory_us == pytest.approx((512 * 512 + 64) * 4 / 1555e3)
    narrow = Layer("narrow", 3, 16, 512 * 512, 1, 9, 512 * 512, "stem")  # a warp has 64 channels
    assert predict(narrow, CARDS[0]).arithmetic_us == pytest.approx(stem.arithmetic_us)


def test_layers_without_zeros_take_one_product() -> None:
    binary = replace(WIDE, kind="binary")
    for card in (CARDS[0], ASSUMED[0], replace(CARDS[0], family="sm80_int8")):
        assert products_of(binary, card) == 1
        assert products_of(WIDE, card) == (1 if card.family == "sm80_int8" else 2)
    for card in (CARDS[0], ASSUMED[0]):
        once, twice = (predict(layer, card).arithmetic_us or 0 for layer in (binary, WIDE))
        assert once == pytest.approx(twice / 2)


def test_an_unknown_rate_is_assumed_or_refused() -> None:
    layers = read_layers(SHAPES, 1)
    with pytest.raises(ValueError, match="rate of H200 is unknown; assume one"):
        network_us(layers, H200)
    times = [network_us(layers, card)[0] for card in ASSUMED]
    assert times[:3] == sorted(times[:3], reverse=True)


def test_the_page_of_predictions_is_what_the_model_says() -> None:
    assert (ROOT / "docs/roofline.md").read_text().endswith(page(SHAPES) + "\n")
