"""Runs a job in a process of its own and brings back its result; this side of `worker`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from ..timing import TIMING
from .isa import variables
from .turns import Turns


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        kind: `"compare"`, `"threads"`, `"layers"` or `"memory"`.
        model: a key of `models.MODELS`, or what `find_model` takes.
        size: height x width of the image, pixels, as `"512x1024"`.
        threads: processor threads.
        arguments: of the model.
        channels: of the image.
        planes: thresholds per channel of the packed network.
        mask_blocks, block_density: size of the blocks that are absent from it, share that is present; see `prepare`.
        isa, kernel: see `isa.variables`.
        repeats: rounds.
        budget_s: seconds that the timing of a comparison may take.
        tolerance: see `benchmark.compare`.
        rivals: also other quantizers and runtimes.
        candidate: whose memory to measure.
    """

    kind: str
    model: str
    arguments: dict[str, Any] = field(default_factory=dict)
    size: str = "256x256"
    threads: int = 1
    channels: int = 3
    planes: int = 1
    mask_blocks: tuple[int, int] | None = None
    block_density: float = 1.0
    isa: str = "native"
    kernel: str | None = None
    repeats: int = 15
    budget_s: float = 30.0
    tolerance: float = 1e-3
    rivals: bool = True
    candidate: str = ""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the example: one image."""
        height, width = self.size.split("x")
        return 1, self.channels, int(height), int(width)

    @property
    def title(self) -> str:
        """A few words for tables and the progress bar."""
        words = self.model.rpartition(":")[2]
        words += "".join(f", {name} {value}" for name, value in self.arguments.items())
        words += f", {self.size}, {self.threads} thread{'s' * (self.threads > 1)}"
        words += f", {self.planes} thresholds" if self.planes > 1 else ""
        words += f", {self.block_density:.0%} of blocks" if self.mask_blocks else ""
        words += "" if self.isa == "native" else f", {self.isa}"
        return f"{words}, {self.candidate}" if self.candidate else words


class JobFailed(Exception):
    """The job gave no result; the message says why."""


def run_job(
    job: Job, report: Callable[[str], Any] = lambda step: None, turns: Turns | None = None
) -> dict[str, Any]:
    """The job's result as plain types.

    Args:
        job: what to measure.
        report: is told each step.
        turns: of the jobs that run at the same time.

    Raises:
        ValueError: candidates disagree, so nothing may be shown.
        JobFailed: anything else; other jobs are not concerned.
    """
    turns = turns or Turns()
    environment = dict(os.environ) | variables(job.isa, job.kernel)
    # Compilers stay in the job's own process group, so that they stop with it.
    environment |= {"OMP_NUM_THREADS": str(job.threads), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    environment.pop("OMP_WAIT_POLICY", None)  # threads as torch has them where nobody sets anything
    command = [sys.executable, "-m", "lightning_mbu.bench.worker"]
    with tempfile.TemporaryFile("w+") as errors, ExitStack() as held:
        # A session of its own: Ctrl-C reaches this process, which then ends the whole group.
        child = held.enter_context(turns.process(lambda: subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True,
            start_new_session=True,
        )))  # fmt: skip
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(asdict(job)) + "\n")
        child.stdin.flush()
        for line in child.stdout:
            message = json.loads(line)
            if "step" in message:
                if message["step"] == TIMING:
                    held.enter_context(turns.alone(child))
                    child.stdin.write("go\n")
                    child.stdin.flush()
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
