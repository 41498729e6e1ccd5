"""Runs the rows of a study one after another, once each, over as many processes and machines as share its storage.

Optuna keeps the record: a row that is complete in the storage is not run again, so a study that was stopped goes on
where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import TrialState
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


def run_rows(study: Study, rows: dict[str, Row], console: Console) -> dict[str, dict[str, Any]]:
    """Runs what is missing and returns all results, in the order of `rows`.

    Rows that another process works on come last: they are run again only if it never finished them.

    Raises:
        KeyboardInterrupt: stopped with Ctrl-C; finished rows are kept.
    """
    while True:
        done = finished(study)
        waiting = [name for name in rows if name not in done]
        if not waiting:
            return {name: done[name] for name in rows}
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        taken = {t.user_attrs.get("row") for t in running}
        name = next((name for name in waiting if name not in taken), waiting[0])
        trial = study.ask()
        trial.set_user_attr("row", name)
        try:
            with bar(console, f"{name} ({len(done) + 1} of {len(rows)})") as report:
                result = rows[name](report)
        except BaseException:
            study.tell(trial, state=TrialState.FAIL)
            raise
        trial.set_user_attr("result", json.dumps(result))
        study.tell(trial, [result["value"]] * len(study.directions))
        console.print(f"{name}: {result['value']:.3f}", highlight=False)


@contextmanager
def bar(console: Console, title: str) -> Iterator[Callable[[float], None]]:
    """A progress bar; yields what sets its share, in [0, 1]."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda share: progress.update(task, completed=share)
