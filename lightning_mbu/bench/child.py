"""Runs a job in a process of its own and brings back its result; this side of `worker`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from .isa import variables


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        kind: `"compare"`, `"threads"`, `"layers"` or `"memory"`.
        model: a key of `models.MODELS`, or what `find_model` takes.
        size: height and width of the image, pixels.
        threads: processor threads.
        channels: of the image.
        isa, kernel: see `isa.variables`.
        repeats: rounds.
        budget_s: seconds that the timing of a comparison may take.
        rivals: also other quantizers and runtimes.
        candidate: whose memory to measure.
    """

    kind: str
    model: str
    size: int = 256
    threads: int = 1
    channels: int = 3
    isa: str = "native"
    kernel: str | None = None
    repeats: int = 15
    budget_s: float = 30.0
    rivals: bool = True
    candidate: str = ""

    @property
    def title(self) -> str:
        """A few words for tables and the progress bar."""
        words = f"{self.model}, {self.size}x{self.size}, {self.threads} thread{'s' * (self.threads > 1)}"
        words += "" if self.isa == "native" else f", {self.isa}"
        return f"{words}, {self.candidate}" if self.candidate else words


class JobFailed(Exception):
    """The job gave no result; the message says why."""


def run_job(job: Job, report: Callable[[str], Any] = lambda step: None) -> dict[str, Any]:
    """The job's result as plain types.

    Args:
        job: what to measure.
        report: is told each step.

    Raises:
        ValueError: candidates disagree, so nothing may be shown.
        JobFailed: anything else; other jobs are not concerned.
    """
    environment = dict(os.environ) | variables(job.isa, job.kernel)
    environment |= {"OMP_NUM_THREADS": str(job.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "lightning_mbu.bench.worker"]
    with tempfile.TemporaryFile("w+") as errors:
        # A session of its own: Ctrl-C reaches this process, which then ends the whole group, compilers included.
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(asdict(job)) + "\n")
            child.stdin.close()
            for line in child.stdout:
                message = json.loads(line)
                if "step" in message:
                    report(message["step"])
                elif "refused" in message:
                    raise ValueError(f"{job.title}: {message['refused']}")
                elif "failed" in message:
                    raise JobFailed(message["failed"])
                else:
                    return message["result"]
            status = child.wait()
            errors.seek(0)
            last = next((text for text in reversed(errors.read().splitlines()) if text.strip()), "no message")
            raise JobFailed(f"the process ended with status {status}: {last[:200]}")
        finally:
            _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
