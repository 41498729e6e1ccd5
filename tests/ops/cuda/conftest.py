"""Libraries of emulated kernels, built once per session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the package `emulator`, for these tests alone
from emulator import build


@pytest.fixture(scope="session")
def host_objects(tmp_path_factory):
    """The emulator and the host side of the library, compiled."""
    if build.COMPILER is None:
        pytest.skip("g++ is not installed")
    return build.compile_all(build.HOST, tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="session")
def from_source(host_objects, tmp_path_factory):
    """Every kernel of kernels.inc, compiled from its CUDA source by g++."""
    folder = tmp_path_factory.mktemp("source")
    sources = sorted({kernel.source for kernel in build.kernels()})
    return build.link([*host_objects, *build.compile_all(sources, folder)], folder / "kernels.so")


@pytest.fixture(scope="session")
def from_ptx(host_objects, tmp_path_factory):
    """The kernels of ``build.PTX_FILES``, translated from the PTX that nvcc makes of them."""
    if build.NVCC is None:
        pytest.skip("nvcc is not installed: only the sources of the kernels are run, not their PTX")
    folder = tmp_path_factory.mktemp("ptx")
    sources = build.translate_all(build.PTX_FILES, folder)
    return build.link([*host_objects, *build.compile_all(sources, folder)], folder / "kernels.so")
