"""`mbu study bits`: which networks are drawn, and what is told of each block and kind."""

import csv
import json
import random
from collections import Counter

import pytest
from rich.console import Console

from lightning_mbu.cli import main
from lightning_mbu.explore import bits
from lightning_mbu.explore.rows import bit_widths
from lightning_mbu.explore.training import Experiment


def test_every_kind_falls_to_every_block_as_often():
    drawn = bits.draw_kinds(tuple("abcde"), 8, random.Random(0))
    assert len(drawn) == 8 and all(len(name) == 5 for name in drawn)
    for block in "abcde":
        assert set(Counter(kinds[block] for kinds in drawn.values()).values()) == {2}
    rows = bit_widths(Experiment(), tuple("abcde"), 8)
    assert {name: row.layers for name, row in rows.items()} == drawn, "the same seed draws the same"


def test_scores_of_blocks(tmp_path):
    lines = [{"row": "b8", "dice": 0.5}, {"row": "bm", "dice": 0.7}, {"row": "48", "dice": 0.1}]
    found = bits.scores(lines, ("x", "y"), "dice")
    assert found == {
        ("x", "binary"): [0.5, 0.7], ("x", "int4"): [0.1], ("y", "masked"): [0.7], ("y", "int8"): [0.5, 0.1],
    }  # fmt: skip
    with (console := Console(width=100)).capture() as shown:
        console.print(bits.table(found, "dice"))
    assert "0.600" in shown.get() and "0.300" in shown.get()
    file, *_ = bits.write(tmp_path, "bits", found, "dice")
    first, *_, last = csv.DictReader(file.read_text().splitlines())
    assert float(first["dice"]) == pytest.approx(0.6) and float(first["dice ±"]) == pytest.approx(0.02**0.5)
    assert (last["block"], last["kind"], last["networks"]) == ("y", "int8", "2")


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    _, picture = bits.write(tmp_path, "bits", {("up1", "int4"): [0.5, 0.7], ("up1", "binary"): [0.4]}, "dice")
    assert all(word in picture.read_text() for word in ("up1", "int4", "dice"))


def test_command(tiny, tmp_path):
    assert main(["study", "bits", "--trials", "1", *tiny]) == 0
    runs = json.loads((tmp_path / "out/bits-nuclei-16px-w8-e1.json").read_text())["runs"]
    (name,) = runs
    lines = list(
        csv.DictReader((tmp_path / "out/bits-nuclei-16px-w8-e1-blocks.csv").read_text().splitlines())
    )
    letters = name.partition(" #")[0]
    assert [bits._LETTERS[line["kind"]] for line in lines] == list(letters) and len(letters) > 8
