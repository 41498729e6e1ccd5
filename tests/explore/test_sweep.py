"""`mbu sweep`: what its choices read as, and which searches share a record."""

import json
from importlib.util import find_spec

import pytest

from lightning_mbu.cli import main
from lightning_mbu.explore.data import read_data
from lightning_mbu.explore.search import parse_choice, sweep_name
from lightning_mbu.explore.training import Experiment


@pytest.mark.parametrize("text, expected", [
    ("lr=1e-3:1e-2:log", ("lr", (0.001, 0.01, True))), ("ramp=0:0.5", ("ramp", (0.0, 0.5, False))),
    ("estimator=clipped,annealed", ("estimator", ["clipped", "annealed"])), ("planes=1,2", ("planes", [1, 2])),
    ("shortcuts=true,false", ("shortcuts", [True, False])),
])  # fmt: skip
def test_choices_of_a_sweep(text, expected):
    assert parse_choice(text) == expected


@pytest.mark.parametrize("text", ["lr", "lr=", "lr=a:b", "lr=1:2:3"])
def test_choices_that_read_as_nothing(text):
    with pytest.raises(ValueError, match="must read name=low:high"):
        parse_choice(text)


def test_another_search_is_another_record(nuclei):
    data = read_data(nuclei, 16)

    def name(*texts, **settings):
        return sweep_name(Experiment(**settings), data, 16, dict(parse_choice(text) for text in texts))

    names = [
        name("lr=1e-3:1e-2"), name("lr=1e-3:1e-2:log"), name("lr=1e-3:2e-2"), name("lr=1e-3,1e-2"),
        name("lr=1e-3:1e-2", "planes=1,2"), name("lr=1e-3:1e-2", shortcuts=True), name("lr=1e-3:1e-2", epochs=1),
    ]  # fmt: skip
    assert len(set(names)) == len(names) and names[0].startswith("sweep-nuclei-16px-w16-e12-lr-")
    assert name("planes=1,2", "lr=1e-3:1e-2") == name("lr=0.001:0.01", "planes=1,2"), (
        "the same, told otherwise"
    )


def test_sweep_command(tiny, tmp_path):
    for choice in ("lr=1e-3:1e-2:log", "lr=2e-3:1e-2:log"):
        assert main(["sweep", "--set", choice, "--trials", "1", *tiny]) == 0
    files = sorted((tmp_path / "out").glob("sweep-nuclei-16px-w8-e1-lr-*.json"))
    assert [len(json.loads(file.read_text())["runs"]) for file in files] == [1, 1]
    if find_spec("matplotlib"):
        assert all(">lr=" in file.with_suffix(".svg").read_text() for file in files)
