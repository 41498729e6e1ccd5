"""Jobs of a benchmark that run at the same time: one measures, the others stand still."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from lightning_mbu.bench import suite
from lightning_mbu.bench.child import Job
from lightning_mbu.bench.turns import Turns


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_who_measures_is_alone():
    counting = "import sys, time\nfor i in range(10**6): print(i, flush=True); time.sleep(0.001)"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", counting], stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def state(child: subprocess.Popen[str]) -> str:
        return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]

    turns = Turns()
    with turns.process(start) as measuring, turns.process(start) as other:
        assert other.stdout is not None and measuring.stdout is not None
        with turns.alone(measuring):
            deadline = time.monotonic() + 10
            while state(other) != "T" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert state(other) == "T" and state(measuring) != "T"
        assert state(other) != "T"
        turns.end()
        assert other.wait(10) < 0 and measuring.wait(10) < 0
        with pytest.raises(RuntimeError, match="over"), turns.process(start):
            pass


def test_a_disagreement_ends_the_other_jobs(monkeypatch):
    ended = []
    monkeypatch.setattr(Turns, "end", lambda self: ended.append(self))

    def run(job, report, turns):
        raise ValueError("'packed compiled' differs")

    with pytest.raises(ValueError, match="differs"):
        suite.run_jobs([Job("compare", "a"), Job("compare", "b")], Console(file=io.StringIO()), run)
    assert len(ended) == 1
