"""Some of every job of `make soak`, with a fixed seed."""

from __future__ import annotations

import pytest

import mbu_ops._library

from . import moved
from .job import Job, start
from .jobs import JOBS

pytestmark = pytest.mark.skipif(not mbu_ops._library.AVAILABLE, reason="this install has no kernels")


@pytest.mark.parametrize("job", [job for job in JOBS if job.quick], ids=lambda job: job.name)
def test_nothing_breaks(job: Job) -> None:
    lines = start(job, job.quick, 1)
    assert lines


def test_a_job_that_faults_is_a_failure_with_its_case() -> None:
    with pytest.raises(AssertionError, match="ended with -11 in case reads behind the end"):
        start(Job("fault", "fault", "", 1, 1), 1, 1)


def test_a_packed_file_gives_the_same_on_every_kernel(tmp_path) -> None:
    moved.write(tmp_path)
    assert all("numbers equal" in line for line in moved.check(tmp_path))
