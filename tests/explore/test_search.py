"""`mbu study budget`'s search: what fits, what is best, and that it repeats itself without repeating networks."""

import io

import optuna
import pytest
from rich.console import Console

from lightning_mbu.explore import search
from lightning_mbu.explore.data import read_data
from lightning_mbu.explore.settings import StudySettings


@pytest.fixture
def budget(nuclei, monkeypatch):
    """Searches with networks that are not trained: a block in float is worth .01 and takes a millisecond."""
    data, tried = read_data(nuclei, 16), []

    def row(experiment, data, **timed):
        floats = sum(kind == "float" for kind in experiment.layers.values())
        tried.append(tuple(experiment.layers.values()))
        score = 0.5 + 0.01 * floats
        return lambda report: {"value": score, "val/dice": score, "ms": 1.0 + floats}

    def run(study=None, console=None, **options):
        tried.clear()
        settings = StudySettings("budget", "x", width=8, **options)
        study = study or optuna.create_study(direction="maximize")  # in memory
        rows = {"float": lambda report: {"value": 0.62, "val/dice": 0.62, "ms": 13.0}}
        found = search.search_budget(settings, data, study, rows, console or Console(quiet=True))
        return found, list(tried)

    monkeypatch.setattr(search, "row", row)
    return run


def test_best_within_the_latency(budget):
    said = io.StringIO()
    found, tried = budget(console=Console(file=said, width=1000), max_latency_ms=5.0, trials=30)
    del found["float"]
    assert all(run["fits"] == (run["ms"] <= 5.0) for run in found.values())
    fitting = {name: run for name, run in found.items() if run["fits"]}
    assert 0 < len(fitting) < len(found) <= len(tried) == 30
    best = max(fitting, key=lambda name: fitting[name]["val/dice"])
    assert f"within the budget, best of {len(fitting)}: {best}" in said.getvalue()


def test_fastest_within_the_drop(budget):
    found, _ = budget(max_dice_drop=0.065, trials=20)
    del found["float"]
    assert all(run["fits"] == (run["val/dice"] >= 0.555 - 1e-9) for run in found.values())


def test_none_within_the_budget(budget):
    said = io.StringIO()
    budget(console=Console(file=said), max_latency_ms=0.5, trials=2)
    assert "none of 2 networks is within the budget" in " ".join(said.getvalue().split())


def test_a_search_repeats_itself_and_goes_on_where_it_was(budget):
    _, whole = budget(max_latency_ms=5.0, trials=14)
    study = optuna.create_study(direction="maximize")
    _, first = budget(study, max_latency_ms=5.0, trials=5)
    _, rest = budget(study, max_latency_ms=5.0, trials=14)
    assert first + rest == whole and len(set(whole)) > 10, "other networks, not the first ones again"
