"""Libraries of emulated kernels; what takes long to compile is compiled once for all of pytest's workers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))  # the package `emulator`, for these tests alone
from emulator import build


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], list[Path]]], list[Path]]:
    """`once(name, make)`: the files that `make(folder)` names, made by the first worker that asks for `name`."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def get(name: str, make: Callable[[Path], list[Path]]) -> list[Path]:
        folder, made = root / name, root / name / "made.json"
        with FileLock(root / f"{name}.lock"):
            if not made.exists():
                folder.mkdir(exist_ok=True)
                made.write_text(json.dumps([str(path) for path in make(folder)]))
        return [Path(path) for path in json.loads(made.read_text())]

    return get


@pytest.fixture(scope="session")
def host_objects(once):
    """The emulator and the host side of the library, compiled."""
    if build.COMPILER is None:
        pytest.skip("g++ is not installed")
    return once("host", lambda folder: build.compile_all(build.HOST, folder))


@pytest.fixture(scope="session")
def source_objects(once):
    """Every kernel of kernels.inc that is written by hand, compiled from its CUDA source by g++."""
    sources = sorted({kernel.source for kernel in build.kernels() if not kernel.generated})
    return once("source", lambda folder: build.compile_all(sources, folder))


@pytest.fixture(scope="session")
def from_source(host_objects, source_objects, tmp_path_factory):
    """The kernels of ``source_objects``."""
    return build.link([*host_objects, *source_objects], tmp_path_factory.mktemp("linked") / "kernels.so")


@pytest.fixture(scope="session")
def from_ptx(host_objects, once, tmp_path_factory):
    """The kernels of ``build.PTX_FILES``, translated from the PTX that nvcc makes of them."""
    if build.NVCC is None:
        pytest.skip("nvcc is not installed: only the sources of the kernels are run, not their PTX")
    objects = once(
        "ptx", lambda folder: build.compile_all(build.translate_all(build.PTX_FILES, folder), folder)
    )
    return build.link([*host_objects, *objects], tmp_path_factory.mktemp("linked") / "kernels.so")


@pytest.fixture(scope="session")
def generated_objects(once):
    """Object files of ``build.GENERATED_FILES``, translated from their PTX; none without nvcc or CUTLASS."""
    if build.NVCC is None or build.generator().cutlass_headers() is None:
        return []
    files = build.GENERATED_FILES
    return once("generated", lambda folder: build.compile_all(build.translate_all(files, folder), folder))


@pytest.fixture(scope="session")
def generated(host_objects, generated_objects, tmp_path_factory):
    """The matrix products of CUTLASS."""
    if not generated_objects:
        pytest.skip("no nvcc, or no cutlass_library (pip install --no-deps nvidia-cutlass)")
    return build.link([*host_objects, *generated_objects], tmp_path_factory.mktemp("linked") / "kernels.so")
