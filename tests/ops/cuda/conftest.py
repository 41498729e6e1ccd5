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
def source_objects(tmp_path_factory):
    """Every kernel of kernels.inc that is written by hand, compiled from its CUDA source by g++."""
    sources = sorted({kernel.source for kernel in build.kernels() if not kernel.generated})
    return build.compile_all(sources, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def from_source(host_objects, source_objects, tmp_path_factory):
    """The kernels of ``source_objects``."""
    return build.link([*host_objects, *source_objects], tmp_path_factory.mktemp("linked") / "kernels.so")


@pytest.fixture(scope="session")
def from_ptx(host_objects, tmp_path_factory):
    """The kernels of ``build.PTX_FILES``, translated from the PTX that nvcc makes of them."""
    if build.NVCC is None:
        pytest.skip("nvcc is not installed: only the sources of the kernels are run, not their PTX")
    folder = tmp_path_factory.mktemp("ptx")
    sources = build.translate_all(build.PTX_FILES, folder)
    return build.link([*host_objects, *build.compile_all(sources, folder)], folder / "kernels.so")


@pytest.fixture(scope="session")
def generated_objects(tmp_path_factory):
    """Object files of ``build.GENERATED_FILES``, translated from their PTX; none without nvcc or CUTLASS."""
    if build.NVCC is None or build.generator().cutlass_headers() is None:
        return []
    folder = tmp_path_factory.mktemp("generated")
    return build.compile_all(build.translate_all(build.GENERATED_FILES, folder), folder)


@pytest.fixture(scope="session")
def generated(host_objects, generated_objects, tmp_path_factory):
    """The matrix products of CUTLASS."""
    if not generated_objects:
        pytest.skip("no nvcc, or no cutlass_library (pip install --no-deps nvidia-cutlass)")
    return build.link([*host_objects, *generated_objects], tmp_path_factory.mktemp("linked") / "kernels.so")
