"""Searches with Optuna: layer kinds under a budget, and any settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import optuna
import torch
from optuna.study import Study
from optuna.trial import Trial, TrialState
from rich.console import Console

from ..models import MBUNet
from .data import DataSet
from .measure import primary, row
from .plans import ranked_blocks
from .settings import StudySettings
from .store import Row, bar, give_up, run_rows
from .training import Experiment

BLOCK_KINDS = ("binary", "masked", "float")
_FIELDS = {field.name for field in fields(Experiment)} - {"options"}


def search_budget(
    settings: StudySettings, data: DataSet, study: Study, rows: dict[str, Row], console: Console
) -> dict[str, dict[str, Any]]:
    """Chooses float, masked or binary for every block: the fastest network within `max_dice_drop` of the float one,
    or the best one within `max_latency_ms`.

    Args:
        study: holds the float network, the yardstick; the search has a study of its own in the same storage.
        rows: the float network.

    Returns:
        Every network that was tried, those within the budget marked by `fits`.
    """
    baseline = next(iter(run_rows(study, rows, console).values()))
    by_latency = settings.max_latency_ms is None
    score = f"val/{primary(data)}"
    example = torch.empty(1, 3, *data.splits["train"].images.shape[1:3])
    blocks = ranked_blocks(MBUNet(width=settings.width, shortcuts=settings.shortcuts), example)

    def excess(result: dict[str, Any]) -> float:
        """How far outside the budget; at most 0 fits."""
        if settings.max_latency_ms is not None:
            return result["ms"] - settings.max_latency_ms
        assert settings.max_dice_drop is not None
        return baseline[score] - result[score] - settings.max_dice_drop

    budget = settings.max_dice_drop if by_latency else settings.max_latency_ms
    search = optuna.create_study(
        study_name=f"{study.study_name}-{'drop' if by_latency else 'ms'}{budget:g}", storage=study._storage,
        load_if_exists=True, direction="minimize" if by_latency else "maximize",
    )  # fmt: skip

    def objective(trial: Trial) -> float:
        kinds = {block: trial.suggest_categorical(block, BLOCK_KINDS) for block in blocks}
        experiment = replace(settings.base, layers={k: str(v) for k, v in kinds.items()})
        measured = row(
            experiment, data, timed=True, threads=settings.threads, compiled=settings.timed_as == "compiled"
        )
        with bar(console, f"network {trial.number + 1} of {settings.trials}") as report:
            result = measured(report)
        trial.set_constraint("budget", excess(result))
        trial.set_user_attr("result", json.dumps({**result, "fits": excess(result) <= 0}))
        return result["ms"] if by_latency else result[score]

    _optimize(search, objective, settings.trials, settings.base.seed)
    tried = {
        ", ".join(f"{block} {kind}" for block, kind in trial.params.items()): json.loads(
            trial.user_attrs["result"]
        )
        for trial in search.get_trials(states=(TrialState.COMPLETE,))
    }
    fitting = {name: result for name, result in tried.items() if result["fits"]}
    if fitting:
        pick = min if by_latency else max
        best = pick(fitting, key=lambda name: fitting[name]["ms" if by_latency else score])
        console.print(f"within the budget, best of {len(fitting)}: {best}", highlight=False)
    else:
        console.print(f"none of {len(tried)} networks is within the budget", highlight=False)
    return {"float": baseline, **tried}


def _optimize(study: Study, objective: Callable[[Trial], float], trials: int, seed: int) -> None:
    """Up to `trials` finished ones, those of earlier calls and other processes included."""
    while len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < trials:
        trial = study.ask()
        # One seed for all would draw the same networks again in every process and after every stop.
        study.sampler = optuna.samplers.TPESampler(seed=1_000_003 * seed + trial.number)
        try:
            value = objective(trial)
        except BaseException:
            give_up(study, trial)
            raise
        study.tell(trial, value)


def parse_choice(text: str) -> tuple[str, Any]:
    """`name=spec` of `mbu sweep --set`: `lr=1e-3:1e-2:log`, `float_share=0:0.5`, `estimator=clipped,annealed`.

    Returns:
        The name, and `(low, high, log)` or a list of values.

    Raises:
        ValueError: it reads as neither.
    """
    name, equals, spec = text.partition("=")
    parts = spec.split(":")
    try:
        if len(parts) in (2, 3) and parts[2:] in ([], ["log"]):
            return name, (float(parts[0]), float(parts[1]), len(parts) == 3)
    except ValueError:
        parts = []
    if not equals or not name or not spec or len(parts) != 1:
        raise ValueError(f"--set {text!r} must read name=low:high, name=low:high:log or name=value,value,...")
    return name, [_value(part) for part in spec.split(",")]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def sweep_name(base: Experiment, data: DataSet, size: int, choices: dict[str, Any]) -> str:
    """Name of a search's record: other settings or other choices are another search."""
    # Ranges and values as a digest: a file's name takes neither any length nor any character.
    digest = hashlib.sha256(repr(sorted(choices.items())).encode()).hexdigest()[:8]
    shortcuts = "-shortcuts" if base.shortcuts else ""
    names = "-".join(sorted(choices))
    return f"sweep-{data.name}-{size}px-w{base.width}-e{base.epochs}{shortcuts}-{names}-{digest}"


def search_settings(
    base: Experiment, data: DataSet, study: Study, choices: dict[str, Any], trials: int, console: Console
) -> dict[str, dict[str, Any]]:
    """Optuna's search over fields of `Experiment` and arguments of `MBUQuantize`, by validation score."""

    def objective(trial: Trial) -> float:
        chosen: dict[str, Any] = {}
        for name, choice in choices.items():
            if isinstance(choice, tuple):
                chosen[name] = trial.suggest_float(name, choice[0], choice[1], log=choice[2])
            else:
                chosen[name] = trial.suggest_categorical(name, choice)
        options = {name: value for name, value in chosen.items() if name not in _FIELDS}
        experiment = replace(
            base, **{name: value for name, value in chosen.items() if name in _FIELDS},
            options={**base.options, **options},
        )  # fmt: skip
        with bar(console, f"network {trial.number + 1} of {trials}") as report:
            result = row(experiment, data)(report)
        trial.set_user_attr("result", json.dumps(result))
        return result["value"]

    _optimize(study, objective, trials, base.seed)
    return {
        ", ".join(f"{name}={value}" for name, value in trial.params.items()): json.loads(
            trial.user_attrs["result"]
        )
        for trial in study.get_trials(states=(TrialState.COMPLETE,))
    }
