"""Shared set-up: reproducible randomness for every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# No deadline: a first call compiles or loads; a busy machine must not fail a test. Derandomized: same cases each run.
settings.register_profile(
    "project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("project")

# Files that take minutes: one process runs all tests of a file, so these begin first, lest one runs alone in the end.
_LONG = ("tests/test_recipes.py", "tests/test_end_to_end.py", "tests/training/test_distributed.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _compiler_forgets() -> Iterator[None]:
    """torch.compile gives up on a function after eight variants of it, which a folder of tests exceeds."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
