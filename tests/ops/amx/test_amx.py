"""The AMX kernel on emulated tiles: no test machine need have AMX, so a standalone program runs the kernel's own source.

The program holds the driver and the kernel of the library, tile intrinsics in plain C++ (`amx_emulation.h`) and a
loop over the definition of the operation. It needs g++ and a processor with AVX-512.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[2] / "ops" / "csrc"
SOURCES = [
    "conv2d/axis", "conv2d/conv2d", "conv2d/conv2d_32x32__amx_int8", "conv2d/conv2d_128x32__amx_int8",
    "conv2d/epilogue_table", "conv2d/gather", "conv2d/plan", "conv2d/run_tiles", "conv2d/tile_weight", "pack/pack__scalar",
    "scratch", "stream/project_rows", "stream/stream_band", "stream/stream_rows__scalar",
]  # fmt: skip
AVX512 = ["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vbmi", "bmi2"]


def missing() -> str | None:
    """Why the program cannot be built or run here."""
    if platform.machine() != "x86_64" or not Path("/proc/cpuinfo").is_file():
        return "the AMX kernel is for x86-64 Linux"
    if not shutil.which("g++"):
        return "no g++ to build the program with"
    flags = set(Path("/proc/cpuinfo").read_text().split())
    lacking = [name for name in AVX512 if name not in flags]
    return f"this processor lacks {', '.join(lacking)}" if lacking else None


REASON = missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("amx") / "check_amx"
    command = ["g++", "-std=c++20", "-O2", "-ffp-contract=off", "-pthread", *(f"-m{name}" for name in AVX512)]
    if sanitizers := os.environ.get("MBU_SANITIZE"):
        command += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-g"]
    command += [f"-I{CSRC}", f"-I{CSRC / 'include'}", "-include", str(HERE / "amx_emulation.h")]
    command += [str(CSRC / "cpu" / f"{name}.cpp") for name in SOURCES]
    build = subprocess.run(
        [*command, str(HERE / "check_amx.cpp"), "-o", str(path)], capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr
    return path


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    limit = 1800 if os.environ.get("MBU_SANITIZE") else 120
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=limit, check=False)


def test_every_layer_equals_the_definition(program: Path) -> None:
    result = run(program)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "460 layers, 0 outputs wrong\n"


@pytest.mark.parametrize(
    "fault,rule",
    [
        ("palette", "ldtilecfg: the palette must be 0 or 1"),
        ("reserved", "ldtilecfg: reserved bytes must be 0"),
        ("rows", "ldtilecfg: a tile has at most 16 rows of 64 bytes"),
        ("half", "ldtilecfg: rows and bytes per row must both be 0, or neither"),
        ("shape", "tdpbssd: inputs of the first source must meet rows of the second"),
        ("same", "tdpbssd: the three tiles must differ"),
        ("unconfigured", "tilezero: tiles are not configured"),
    ],
)
def test_the_emulation_faults_where_the_processor_would(program: Path, fault: str, rule: str) -> None:
    result = run(program, fault)
    assert result.returncode != 0
    assert result.stderr == f"AMX fault: {rule}\n"


def test_a_permitted_program_does_not_fault(program: Path) -> None:
    assert run(program, "none").returncode == 0
