"""Several networks of a study at the same time: results, Ctrl-C, workers that fail or die."""

import multiprocessing
import os
import pickle
import time
from functools import partial
from typing import Any

import pytest
from optuna.trial import TrialState
from rich.console import Console

from lightning_mbu.explore.data import read_data
from lightning_mbu.explore.measure import row
from lightning_mbu.explore.settings import StudySettings
from lightning_mbu.explore.store import finished, open_study
from lightning_mbu.explore.training import Experiment
from lightning_mbu.explore.workers import cores, run_side_by_side


class Arrives:
    """A row that calls a function when a worker unpickles it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def gives(value) -> Any:
    """A row of the standard library's: the first item, whatever it is asked."""
    return partial(next, iter([{"value": value}]))


class Interrupted(Console):
    """Ctrl-C when the first result is told."""

    def print(self, *words, **options):
        raise KeyboardInterrupt


@pytest.fixture
def study(tmp_path):
    yield open_study("s", tmp_path, None, direction="maximize")
    assert not multiprocessing.active_children(), "workers end"


def test_results_in_the_order_of_the_rows_and_nothing_twice(study):
    rows = {name: gives(value) for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    for _ in range(2):
        found = run_side_by_side(study, rows, Console(quiet=True), 1)
        assert list(found) == ["a", "b", "c"] and [result["value"] for result in found.values()] == [
            1.0,
            2.0,
            3.0,
        ]
    assert len(study.trials) == 3


def test_what_is_finished_is_kept_and_the_others_end(study):
    rows = {"long": Arrives(time.sleep, 600), "short": gives(1.0)}
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(study, rows, Interrupted(quiet=True), 2)
    assert list(finished(study)) == ["short"]
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


@pytest.mark.parametrize(("bad", "words"), [
    (partial(int, "x"), "bad: TypeError: "), (Arrives(os._exit, 3), "bad: its process ended with status 3"),
])  # fmt: skip
def test_a_row_that_fails_is_named(bad, words, study):
    with pytest.raises(RuntimeError, match=words):
        run_side_by_side(study, {"bad": bad}, Console(quiet=True), 2)
    assert [t.state for t in study.trials] == [TrialState.FAIL]


def test_rows_of_studies_can_be_sent(nuclei):
    sent = pickle.loads(pickle.dumps(row(Experiment("float", width=8, epochs=1), read_data(nuclei, 16))))
    assert 0 <= sent(lambda share: None)["value"] <= 1


def test_a_quick_table1_shows_the_order():
    quick = StudySettings("table1", "x", quick=True)
    assert (quick.base.peak, quick.runs, quick.side_by_side) == (1e-4, 3, cores())
    told = StudySettings("table1", "x", quick=True, lr=5e-3, seeds=1, processes=1)
    assert (told.base.peak, told.runs, told.side_by_side) == (5e-3, 1, 1)
    for other in (StudySettings("table1", "x"), StudySettings("pareto", "x", quick=True)):
        assert (other.base.peak, other.runs, other.side_by_side) == (5e-3, 1, 1)
    with pytest.raises(ValueError, match="processes=2: budget times its networks"):
        StudySettings("budget", "x", max_dice_drop=0.1, processes=2)
