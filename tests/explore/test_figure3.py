"""`mbu study figure3`: zeros by layer, gains by block, the picture."""

import csv

import pytest

from lightning_mbu.explore import figure3
from lightning_mbu.explore.results import by_row
from lightning_mbu.explore.rows import all_blocks
from lightning_mbu.explore.settings import StudySettings
from lightning_mbu.explore.training import Experiment


def run(dice, **zeros):
    return {
        "test/dice": dice,
        "zeros": {"a.conv": 0.0, "b.conv": 0.0, **zeros},
        "quantized GMAC, masked twice": 1.0,
    }


RUNS = {
    "00 #0": run(0.5), "10 #0": run(0.6, **{"a.conv": 0.25}), "01 #0": run(0.4, **{"b.conv": 0.5}),
    "11 #0": run(0.5, **{"a.conv": 0.75, "b.conv": 0.5}),
}  # fmt: skip


def test_zeros_are_those_of_masked_layers():
    assert figure3.zero_shares(RUNS) == {"a.conv": 0.5, "b.conv": 0.5}
    assert figure3.zero_shares({"00 #0": run(0.5)}) == {}


def test_gains_of_blocks():
    gained = figure3.gains(by_row(RUNS), ("a", "b"), "test/dice")
    assert gained == {"a": pytest.approx(0.1), "b": pytest.approx(-0.1)}
    shown = figure3.table(gained, "dice", len(RUNS))
    assert shown.row_count == 2 and "exact" in str(shown.title)
    assert "sampled" in str(figure3.table(gained, "dice", 3).title)


def test_every_choice_of_blocks():
    rows = all_blocks(Experiment(), ("x", "y", "z"))
    assert list(rows) == ["000", "100", "010", "001", "110", "101", "011", "111"]
    assert rows["101"].layers == {"x": "masked", "z": "masked"} and rows["000"].layers == {}
    assert StudySettings("figure3", "x", all=True).record("nuclei") == StudySettings("figure3", "x").record(
        "nuclei"
    )
    with pytest.raises(ValueError, match="--all is an option of figure3"):
        StudySettings("pareto", "x", all=True)


def test_zeros_and_gains_of_every_layer_are_written(tmp_path):
    runs = {name: {**run, "zeros": {"stem.conv": 0.2, **run["zeros"]}} for name, run in RUNS.items()}
    file, *_ = figure3.write(tmp_path, "figure3", runs, ("a", "b"), "test/dice")
    lines = {line["layer"]: line for line in csv.DictReader(file.read_text().splitlines())}
    assert list(lines) == ["stem.conv", "a.conv", "b.conv"] and lines["a.conv"]["block"] == "a"
    assert [float(line["zeros"]) for line in lines.values()] == pytest.approx([0.2, 0.5, 0.5])
    gained = [line["mean gain in test/dice"] for line in lines.values()]
    assert gained[0] == "" and [float(value) for value in gained[1:]] == pytest.approx([0.1, -0.1])


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    _, file = figure3.write(tmp_path, "figure3", RUNS, ("a", "b"), "test/dice")
    text = file.read_text()
    assert "a.conv" in text and "blocks masked" in text and "mean gain" in text
