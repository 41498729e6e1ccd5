"""Jobs: each runs in a child process that tells how far it is, what it tried, and, if a fault ends it, with what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
_START = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from soak.job import child; child(*sys.argv[1:])"


class Report:
    """What a child tells: lines of JSON on its standard output, and its case in a file that outlives it."""

    def __init__(self, case_file: str):
        self._cases, self._last = os.open(case_file, os.O_WRONLY), 0.0

    def _say(self, **message: Any) -> None:
        print(json.dumps(message), flush=True)

    def progress(self, done: int) -> None:
        """Call after each case; heard ten times a second."""
        now = time.monotonic()
        if now - self._last > 0.1:
            self._last = now
            self._say(done=done)

    def result(self, *lines: str) -> None:
        """What was tried, in words and numbers."""
        self._say(result=lines)

    def keep(self, text: str) -> None:
        """Writes down what is tried now, for the case that the process does not live to say it."""
        os.pwrite(self._cases, f"{text:<1999.1999}\n".encode()[:2000], 0)


@dataclass(frozen=True)
class Job:
    """One line of `jobs.py`.

    Attributes:
        name: on the command line.
        module: of this folder, with `run(report, count, seed)`.
        unit: what is counted.
        quick: how many in `make test`; 0: not there.
        full: how many in `make soak`.
        limit: seconds after which it counts as hanging.
    """

    name: str
    module: str
    unit: str
    quick: int
    full: int
    limit: float = 3600


def child(module: str, case_file: str, count: str, seed: str) -> None:
    """What the child process runs."""
    import faulthandler

    faulthandler.enable()
    run: Any = import_module(f"soak.{module}").run
    run(Report(case_file), int(count), int(seed))


def start(job: Job, count: int, seed: int, heard: Callable[[int], None] = lambda done: None) -> list[str]:
    """Runs a job to its end.

    Args:
        job: which.
        count: how much of it.
        seed: for its random numbers.
        heard: called with how much is done.

    Returns:
        What it tried, line by line.

    Raises:
        AssertionError: it failed, was stopped by a signal or hung; with its case and the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        case_file, errors = Path(folder, "case"), Path(folder, "errors")
        case_file.touch()
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-c", _START, job.module, str(case_file), str(count), str(seed)]
        lines: list[str] = []
        with errors.open("wb") as stream:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stream, text=True, env=environment
            )
        hung = threading.Event()
        alarm = threading.Timer(job.limit, lambda: (hung.set(), process.kill()))
        alarm.start()
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line) if line.startswith("{") else {}
            heard(message.get("done", 0))
            lines += message.get("result", [])
        process.stdout.close()
        code = process.wait()
        alarm.cancel()
        if code or not lines:
            end = f"was still running after {job.limit:.0f} s" if hung.is_set() else f"ended with {code}"
            said = errors.read_text(errors="replace")[-6000:]
            raise AssertionError(
                f"{job.name}, seed {seed}: {end} in case {case_file.read_text().strip()}\n{said}"
            )
    return lines
