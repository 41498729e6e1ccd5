"""Finished jobs kept in a file, so that a benchmark that was stopped goes on where it was."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mbu_ops.backends import library_path

from ..atomic import write_atomically
from .child import Job
from .suite import job_conditions


class KeptJobs:
    """Results by job, under the versions and the processor that they were measured with; failures are not kept.

    Args:
        file: JSON, read if it exists and replaced after every job. Delete it to measure everything anew.
        versions: what a result holds for; by default `job_versions`.

    Raises:
        ValueError: the file holds something else.
    """

    def __init__(self, file: Path, versions: dict[str, str] | None = None):
        self.file = file
        self.versions = job_versions() if versions is None else versions
        self._lock = threading.Lock()  # jobs prepare side by side
        self._read()

    def run(self, run: Callable[..., dict[str, Any]], job: Job, *told: Any) -> dict[str, Any]:
        """The result of an earlier call, or of `run(job, *told)`."""
        key = self._key(job)
        found = self._read().get(key)
        if found is None:
            found = {
                "result": run(job, *told),
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            }
            with self._lock:
                content = {"jobs": {**self._read(), key: found}}
                write_atomically(self.file, json.dumps(content, indent=1).encode())
        return found["result"]

    def date(self, job: Job) -> str | None:
        """When the job was measured; None if it has not been under these versions."""
        found = self._read().get(self._key(job))
        return found and found["date"]

    def _key(self, job: Job) -> str:
        return json.dumps([asdict(job), self.versions], sort_keys=True)

    def _read(self) -> dict[str, Any]:
        if not self.file.exists():
            return {}
        try:
            return dict(json.loads(self.file.read_text(encoding="utf-8"))["jobs"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.file} is no record of finished jobs ({error!r}); move it away, or give another --output."
            ) from error


def job_versions() -> dict[str, str]:
    """What a time depends on beside its job: processor, packages, kernels, and variables that change what runs."""
    facts = job_conditions()
    del facts["date"]
    facts["lightning-mbu"] = version("lightning-mbu")
    facts["kernels"] = hashlib.sha256(library_path().read_bytes()).hexdigest()[:16]
    return facts | {name: value for name, value in os.environ.items() if name.startswith("MBU_")}
