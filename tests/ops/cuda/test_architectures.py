"""A kernel file refuses every architecture whose tensor cores do not have its instruction."""

from __future__ import annotations

import subprocess

import pytest
from emulator import build

pytestmark = pytest.mark.skipif(build.NVCC is None, reason="nvcc is not installed")


@pytest.mark.parametrize(
    "form, architecture, reason",
    [
        ("sm75_xor", "80", "meant for sm_75"),
        ("sm80_xor", "75", "native on sm_80 to sm_89"),
        ("sm80_xor", "90", "native on sm_80 to sm_89"),
        ("sm90_and", "89", "native on sm_90"),
        ("sm90_and", "100", "native on sm_90"),
        ("sm80_int8", "75", "need sm_80"),
    ],
)
def test_wrong_architecture_is_refused(tmp_path, form, architecture, reason):
    source = build.CSRC / "cuda" / "conv2d" / f"conv2d_32x32__{form}.cu"
    command = [build.NVCC, "-std=c++17", "-ptx", f"-arch=compute_{architecture}"]
    command += [
        f"-I{build.CSRC}",
        f"-I{build.CSRC / 'include'}",
        str(source),
        "-o",
        str(tmp_path / "out.ptx"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert reason in done.stderr
