"""`torch.ops.mbu_emulated`: the CUDA operations of the library on CPU tensors, down to a driver whose launches run the
kernels' own sources on the emulator."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from emulator import build

HERE = Path(__file__).resolve().parent
CUDA_TESTS, ROOT = HERE.parent, HERE.parents[3]
CSRC = ROOT / "ops" / "csrc"
LOADER = (
    "choose",
    "doctor",
    "driver",
    "launch",
    "nvrtc",
    "cache",
    "search",
    "select",
    "plan",
    "plan_flat",
    "plan_gemm",
    "weight",
)
# One device of each kind, the last one older than every kernel.
CARDS = {"sm75_xor": "7.5:65536", "sm80_xor": "8.6:101376", "sm90_and": "9.0:232448", "sm80_int8": "12.0:101376",
         "none": "7.0:98304"}  # fmt: skip
# Two more of Hopper, for settings that are read once per device.
SPARE = [CARDS["sm90_and"]] * 2

usable = shutil.which("g++") is not None and sys.platform == "linux"
collect_ignore_glob = [] if usable else ["test_*.py"]


def load_module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def compile_cpp(*arguments: str) -> None:
    command = ["g++", "-std=c++20", "-O1", "-fPIC", f"-I{CSRC}", f"-I{CSRC / 'include'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def libraries(
    host_objects: list[Path],
    source_objects: list[Path],
    generated_objects: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The fake driver, what a launch does on it, and the operations over the loader."""
    folder = tmp_path_factory.mktemp("dispatch")
    tools = load_module("mbu_build_images", CSRC / "cuda" / "build.py")
    driver, runner = folder / "fake_driver.so", folder / "runner.so"
    compile_cpp("-shared", str(CUDA_TESTS / "driver" / "fake_driver.cpp"), "-ldl", "-o", str(driver))
    emulated = folder / "kernels.so"
    build.link([*host_objects, *source_objects, *generated_objects], emulated)
    emulator = [f"-I{CUDA_TESTS / 'emulator'}", str(HERE / "runner.cpp"), str(emulated)]
    compile_cpp("-shared", *emulator, "-o", str(runner))

    # Images that only name their kernels and their architecture: the fake driver reads no machine code.
    generated = build.GENERATED_FILES if generated_objects else ()
    kernels = [k for k in tools.read_kernels() if not k.generated or k.stem in generated]
    for image in tools.images(kernels):
        names = " ".join(kernel.name for kernel in kernels if kernel.stem == image.stem)
        number = "".join(filter(str.isdigit, image.target))
        (folder / image.file).write_text(f".target sm_{number}\n{names}\n")
    table = folder / "table.cpp"
    table.write_text(tools.write_table(folder, kernels))
    headers = ROOT / "ops" / "torch_headers.py"
    include = subprocess.run([sys.executable, str(headers)], capture_output=True, text=True, check=True)
    operations = folder / "operations.so"
    parts = [
        CSRC / "torch" / "schema.cpp",
        CSRC / "torch" / "cuda.cpp",
        CUDA_TESTS / "host_context.cpp",
        table,
    ]
    parts += [CSRC / "cuda" / f"{name}.cpp" for name in LOADER]
    compile_cpp(
        "-shared", "-fvisibility=hidden", "-isystem", include.stdout.strip(), "-DMBU_LIBRARY=mbu_emulated",
        "-DMBU_DEVICE=CPU", "-DTORCH_TARGET_VERSION=0x020a000000000000", *map(str, parts), "-ldl",
        "-Wl,--no-as-needed", f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-o", str(operations),
    )  # fmt: skip
    return {"driver": driver, "runner": runner, "operations": operations}


@dataclass(frozen=True)
class Gpu:
    """`torch.ops.mbu_emulated` on the card `family` ("none": a card without kernels)."""

    family: str
    libraries: dict[str, ctypes.CDLL]

    @property
    def index(self) -> int:
        return list(CARDS).index(self.family)

    def log(self) -> list[str]:
        """What the driver was asked since the last call."""
        lines = self.libraries["driver"].fake_log().decode().splitlines()
        self.libraries["driver"].fake_clear_log()
        return lines

    def last_kernel(self) -> str:
        """The one that this thread started last."""
        return self.libraries["operations"].mbu_cuda_last_kernel().decode()

    def emulation_error(self) -> str:
        return self.libraries["runner"].emulation_error().decode()


@pytest.fixture(scope="session")
def loaded(libraries: dict[str, Path]) -> Iterator[dict[str, ctypes.CDLL]]:
    found = {name: ctypes.CDLL(str(libraries[name])) for name in ("driver", "runner")}
    found["driver"].fake_log.restype = found["runner"].emulation_error.restype = ctypes.c_char_p
    found["driver"].fake_set_runner(found["runner"].emulate_launch)
    with pytest.MonkeyPatch.context() as patch:
        # Read when the first operation opens the driver.
        patch.setenv("MBU_CUDA_DRIVER", str(libraries["driver"]))
        patch.setenv("FAKE_DEVICES", ";".join([*CARDS.values(), *SPARE]))
        patch.setenv("MBU_NVRTC", "none")
        torch.ops.load_library(str(libraries["operations"]))
        found["operations"] = ctypes.CDLL(str(libraries["operations"]))
        found["operations"].mbu_cuda_last_kernel.restype = ctypes.c_char_p
        yield found


@pytest.fixture(params=list(CARDS))
def gpu(request: pytest.FixtureRequest, loaded: dict[str, ctypes.CDLL]) -> Gpu:
    """Each card in turn."""
    loaded["operations"].host_set_device(list(CARDS).index(request.param))
    loaded["driver"].fake_clear_log()
    return Gpu(request.param, loaded)
