"""Runs a test once for every CPU kernel when it asks for ``kernel``; skips the folder without compiled kernels."""

from __future__ import annotations

import pytest

import mbu_ops._library

collect_ignore_glob = [] if mbu_ops._library.AVAILABLE else ["test_*.py"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel" not in metafunc.fixturenames:
        return
    from mbu_ops.backends import cpu_kernels

    metafunc.parametrize(
        "kernel",
        [
            pytest.param(
                kernel.name,
                marks=pytest.mark.skipif(not kernel.available, reason=f"this machine lacks {kernel.isa}"),
            )
            for kernel in cpu_kernels()
        ],
    )
