"""The loader without torch, around the images of the installed library, and a driver without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[3] / "ops" / "csrc"
SOURCES = ("driver", "launch", "nvrtc", "cache", "select", "search", "doctor")
RTX_3090, RTX_2080, A100, H200, RTX_5090 = (
    "8.6:101376",
    "7.5:65536",
    "8.0:166912",
    "9.0:232448",
    "12.0:101376",
)

FEW_STEMS = ("unpack/unpack__sm75", "max_pool2d/max_pool2d__sm75")

collect_ignore_glob = [] if shutil.which("g++") and sys.platform == "linux" else ["test_*.py"]


def compile_cpp(*arguments: str) -> None:
    command = ["g++", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
    command += [f"-I{CSRC}", f"-I{CSRC / 'include'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("driver") / "fake_driver.so"
    compile_cpp("-shared", str(HERE / "fake_driver.cpp"), "-o", str(path))
    return path


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The loader but for its table of images."""
    folder = tmp_path_factory.mktemp("objects")
    made = []
    for source in [*(CSRC / "cuda" / f"{name}.cpp" for name in SOURCES), HERE / "probe.cpp"]:
        made.append(str(folder / f"{source.stem}.o"))
        compile_cpp("-c", str(source), "-o", made[-1])
    return made


@dataclass(frozen=True)
class Run:
    """Runs actions (see scenario.py) in a fresh process."""

    loader: Path
    driver: Path

    def __call__(self, devices: str, *actions: list[Any], **environment: str) -> list[Any]:
        done = subprocess.run(
            [sys.executable, str(HERE / "scenario.py"), str(self.loader), str(self.driver), json.dumps(actions)],
            env={**os.environ, "MBU_CUDA_DRIVER": str(self.driver), "FAKE_DEVICES": devices, **environment},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def link_loader(folder: Path, images: Path | None, objects: list[str], stems: tuple[str, ...] = ()) -> Path:
    """The loader around a table of images; `stems` leaves all other kernel files out."""
    spec = importlib.util.spec_from_file_location("mbu_build", CSRC / "cuda" / "build.py")
    assert spec is not None and spec.loader is not None
    tools = sys.modules["mbu_build"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tools)
    kernels = [kernel for kernel in tools.read_kernels() if not stems or kernel.stem in stems]
    table, loader = folder / "table.cpp", folder / "loader.so"
    table.write_text(tools.write_table(images, kernels))
    if stems:
        # A list of those kernels alone, found before the real one.
        lines = (CSRC / "cuda" / "kernels.inc").read_text().splitlines()
        small, selection = folder / "small" / "cuda" / "kernels.inc", folder / "select.o"
        small.parent.mkdir(parents=True)
        small.write_text(
            "\n".join(line for line in lines if any(f'"{stem}"' in line for stem in stems)) + "\n"
        )
        source = CSRC / "cuda" / "select.cpp"
        compile_cpp("-c", "-iquote", str(folder / "small"), str(source), "-o", str(selection))
        objects = [str(selection), *(name for name in objects if not name.endswith("select.o"))]
    compile_cpp("-shared", str(table), *objects, "-ldl", "-o", str(loader))
    return loader


def write_images(folder: Path) -> None:
    """The images of the installed library as files."""
    from mbu_ops.cuda import cuda_images, image_bytes

    if not cuda_images():
        pytest.skip("this library was built without nvcc: it carries no images")
    for image in cuda_images():
        name = f"{image.stem.replace('/', '.')}.{image.target}.fatbin"
        (folder / name).write_bytes(image_bytes(image))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, fake_driver: Path, objects: list[str]) -> Run:
    """The loader with the images of the installed library."""
    folder = tmp_path_factory.mktemp("loader")
    write_images(folder)
    return Run(link_loader(folder, folder, objects), fake_driver)


@pytest.fixture(scope="session")
def run_few(tmp_path_factory: pytest.TempPathFactory, fake_driver: Path, objects: list[str]) -> Run:
    """The same with the kernels of FEW_STEMS alone, which NVRTC compiles in little time."""
    folder = tmp_path_factory.mktemp("few")
    write_images(folder)
    return Run(link_loader(folder, folder, objects, FEW_STEMS), fake_driver)


@pytest.fixture(scope="session")
def run_sources(tmp_path_factory: pytest.TempPathFactory, fake_driver: Path, objects: list[str]) -> Run:
    """The loader of a library built without nvcc: sources alone, of FEW_STEMS."""
    return Run(link_loader(tmp_path_factory.mktemp("sources"), None, objects, FEW_STEMS), fake_driver)
