"""Runs the rows of a study one after another, once each, over as many processes and machines as share its storage.

Optuna keeps the record: a row that is complete in the storage is not run again, so a study that was stopped goes on
where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import Trial, TrialState
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

Row = Callable[[Callable[[float], None]], dict[str, Any]]


def open_study(name: str, output: Path, storage: str | None, **options: Any) -> Study:
    """The study called `name`, new or as it was left.

    Args:
        output: folder of the study; holds its database where `storage` is None.
        storage: SQLAlchemy URL that several machines reach, such as `postgresql://…`.
        options: further arguments of `optuna.create_study`.
    """
    output.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = storage or f"sqlite:///{output / 'study.db'}"
    return optuna.create_study(study_name=name, storage=url, load_if_exists=True, **options)


def finished(study: Study) -> dict[str, dict[str, Any]]:
    """Row -> result, of those that are complete."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return {t.user_attrs["row"]: json.loads(t.user_attrs["result"]) for t in trials if "row" in t.user_attrs}


def claim(study: Study, rows: Mapping[str, Row], mine: Collection[str] = ()) -> tuple[Trial, str] | None:
    """Takes the next row that nobody has finished and that is not in `mine`: its trial, whose attribute `row` names it to
    all processes, and a title with its number. None where there is no such row.

    Rows that another process works on come last: they are run again only if it never finished them.
    """
    done = finished(study)
    waiting = [name for name in rows if name not in done and name not in mine]
    if not waiting:
        return None
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    taken = {t.user_attrs.get("row") for t in running}
    name = next((name for name in waiting if name not in taken), waiting[0])
    trial = study.ask()
    trial.set_user_attr("row", name)
    return trial, f"{name} ({len(rows) - len(waiting) + 1} of {len(rows)})"


def keep(study: Study, trial: Trial, result: dict[str, Any], console: Console) -> None:
    """Writes the result of a claimed row into the record."""
    trial.set_user_attr("result", json.dumps(result))
    study.tell(trial, [result["value"]] * len(study.directions))
    console.print(f"{trial.user_attrs['row']}: {result['value']:.3f}", highlight=False)


def give_up(study: Study, trial: Trial) -> None:
    """Leaves a claimed row to whoever comes next."""
    study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


def run_rows(study: Study, rows: Mapping[str, Row], console: Console) -> dict[str, dict[str, Any]]:
    """Runs what is missing and returns all results, in the order of `rows`.

    Raises:
        KeyboardInterrupt: stopped with Ctrl-C; finished rows are kept.
    """
    while (claimed := claim(study, rows)) is not None:
        trial, title = claimed
        try:
            with bar(console, title) as report:
                result = rows[trial.user_attrs["row"]](report)
        except BaseException:
            give_up(study, trial)
            raise
        keep(study, trial, result, console)
    return results_of(study, rows)


def results_of(study: Study, rows: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Results of rows that are all complete, in their order."""
    done = finished(study)
    return {name: done[name] for name in rows}


def bars(console: Console) -> Progress:
    """Progress bars for shares in [0, 1], gone when they are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


@contextmanager
def bar(console: Console, title: str) -> Iterator[Callable[[float], None]]:
    """A progress bar; yields what sets its share, in [0, 1]."""
    with bars(console) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda share: progress.update(task, completed=share)
