"""`mbu study figure3`: zeros by layer, gains by block, the picture."""

import pytest

from lightning_mbu.explore import figure3
from lightning_mbu.explore.results import by_row


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
    assert figure3.table(gained, "dice").row_count == 2


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    (file,) = figure3.write(tmp_path, "figure3", RUNS, ("a", "b"), "test/dice")
    text = file.read_text()
    assert "a.conv" in text and "blocks masked" in text and "mean gain" in text
