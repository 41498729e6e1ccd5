"""Runs the rows of a study side by side: this process keeps the record, others train."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from optuna.study import Study
from optuna.trial import Trial
from rich.console import Console
from rich.progress import Progress

from ..runs import quiet_lightning
from .store import Row, bars, claim, finished, give_up, keep, results_of


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """A process that runs the rows sent to it, one at a time.

    Attributes:
        connection: takes rows, gives back shares in [0, 1] and then the result, or an error in words.
    """

    def __init__(self, threads: int):
        spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, threads), daemon=True)
        # Inherited: Ctrl-C is for the process that keeps the record.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        theirs.close()  # so that the end of the process ends the connection

    def end(self) -> None:
        self.process.kill()  # to SIGTERM Lightning answers when a batch is done; there is nothing to save
        self.process.join()


def _serve(connection: Connection, threads: int) -> None:
    quiet_lightning()
    torch.set_num_threads(threads)
    try:
        while True:
            row: Row = connection.recv()
            try:
                connection.send(row(connection.send))
            except Exception as error:  # noqa: BLE001 - told where the record is kept
                connection.send(f"{type(error).__name__}: {error}")
    except (EOFError, BrokenPipeError):
        pass  # nobody listens any more


def run_side_by_side(
    study: Study, rows: Mapping[str, Row], console: Console, processes: int
) -> dict[str, dict[str, Any]]:
    """As `store.run_rows`, `processes` rows at a time.

    Args:
        rows: name -> what can be pickled.

    Raises:
        RuntimeError: a row failed, or its process ended.
        KeyboardInterrupt: stopped with Ctrl-C; finished rows are kept.
    """
    processes = min(processes, len(rows.keys() - finished(study).keys()))
    workers = [Worker(max(cores() // processes, 1)) for _ in range(processes)]
    idle, busy = list(workers), {}  # connection -> worker, trial, bar
    try:
        with bars(console) as shown:
            while True:
                while idle and (
                    claimed := claim(study, rows, [_name(trial) for _, trial, _ in busy.values()])
                ):
                    (trial, title), worker = claimed, idle.pop()
                    busy[worker.connection] = worker, trial, shown.add_task(title, total=1.0)
                    with suppress(OSError):  # it has ended, as `_next_result` tells
                        worker.connection.send(rows[_name(trial)])
                if not busy:
                    return results_of(study, rows)
                connection, result = _next_result(busy, shown)
                worker, trial, task = busy[connection]
                keep(study, trial, result, console)
                shown.remove_task(task)
                del busy[connection]
                idle.append(worker)
    finally:
        for worker in workers:
            worker.end()
        for _, trial, _ in busy.values():
            give_up(study, trial)


def _name(trial: Trial) -> str:
    return trial.user_attrs["row"]


def _next_result(busy: Mapping[Any, Any], shown: Progress) -> tuple[Connection, dict[str, Any]]:
    """Waits for it, and moves the bars meanwhile."""
    while True:
        for connection in wait(list(busy)):
            worker, trial, task = busy[connection]
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                raise RuntimeError(
                    f"{_name(trial)}: its process ended with status {worker.process.exitcode}; "
                    "--processes 1 trains in this one."
                ) from None
            match message:
                case dict():
                    return worker.connection, message
                case str():
                    raise RuntimeError(f"{_name(trial)}: {message}")
                case share:
                    shown.update(task, completed=share)
