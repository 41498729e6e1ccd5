"""`ops/bench`: what a line of a shapes file means, and that layers of every kind are computed, not only timed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import mbu_ops.functional as F
from mbu_ops.roofline import read_layers

BENCH = Path(__file__).resolve().parents[2] / "ops" / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    """The modules that the scripts import from their own folder."""
    monkeypatch.syspath_prepend(str(BENCH))
    import conv2d_layers
    import conv2d_tails

    yield conv2d_layers, conv2d_tails
    for name in ("conv2d_layers", "conv2d_tails"):
        del sys.modules[name]


def shapes_file(folder: Path, line: str) -> Path:
    path = folder / "shapes.txt"
    path.write_text(
        f"# name C OC H W kernel stride padding dilation groups kind\n\npool 8 8 9 9 2 2 0 pool\n{line}\n"
    )
    return path


def test_dilation_and_groups_are_optional(bench, tmp_path: Path) -> None:
    layers, _ = bench
    plain, wide, grouped = (
        layers.read_shapes(shapes_file(tmp_path, f"a 64 96 20 24 3 2 1{more} masked"))[0]
        for more in ("", " 2", " 2 4")
    )
    assert (plain.dilation, plain.groups, plain.pixels) == (1, 1, 10 * 12)
    assert (wide.dilation, wide.groups, wide.pixels) == (2, 1, 9 * 11)
    assert grouped.groups == 4 and 4 * grouped.gmac == wide.gmac == 9 * 11 * 64 * 96 * 9 / 1e9
    for layer in (plain, wide, grouped):
        planes, run, reference = layers.prepare(layer, sums=True)
        sums = run(F.tile_weight(planes))
        assert torch.equal(sums, reference())
        assert sums.shape[2] * sums.shape[3] == layer.pixels
    # Weights that a group does not have: 16 of 64 channels are there, two thirds of those not zero.
    present = sum((word & 0xFFFFFFFF).bit_count() for word in planes[1].flatten().tolist())
    assert 0.6 < present / (96 * 16 * 9) < 0.73


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a 64 64 8 8 3 1 masked", "has 6 numbers"),
        ("a 64 64 8 8 3 1 1 1 1 1 masked", "has 10 numbers"),
        ("a 64 64 8 8 2 2 0 1 2 up", "transposed and has groups"),
    ],
)
def test_lines_that_cannot_be_are_refused(bench, tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bench[0].read_shapes(shapes_file(tmp_path, line))


def test_the_model_of_gpus_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dilation and groups are not known"):
        read_layers(shapes_file(tmp_path, "a 64 64 8 8 3 1 2 2 masked"), 1)


@pytest.mark.parametrize("kind", ["3x3", "1x1", "stride2", "dilation2", "up"])
def test_tails_of_every_kind(bench, monkeypatch: pytest.MonkeyPatch, capsys, kind: str) -> None:
    layers, tails = bench
    monkeypatch.setattr(tails, "TAIL_PIXELS", 130)
    monkeypatch.setattr(tails, "TAIL_CHANNELS", (33,))
    monkeypatch.setattr(tails, "TAIL_WIDTHS", (13,))
    assert set(tails.KINDS) == {"3x3", "1x1", "stride2", "dilation2", "up"}
    layer = tails.tail_layer(kind, 33, 64, 13)
    planes, run, reference = layers.prepare(layer, sums=False)
    bits = run(F.tile_weight(planes))
    assert torch.equal(bits, reference())
    spread = 4 if kind == "up" else 1
    assert bits.shape[1] * bits.shape[2] == spread * 10 * 13
    assert tails.work(layer) == 10 * 13 * 2 * 2
    assert tails.bench_tails([kind], ["scalar"], 1, False) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split(" scalar")[0].strip() for line in lines] == [
        f"{kind} 33->64, 2x64",
        f"{kind} 64->33, 2x64",
        f"{kind} 64->64, 10x13",
    ]
