"""Choosing a kernel, and what an import brings along: each in a fresh process where state matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mbu_ops.backends import cpu_kernels, library_path, use_cpu_kernel


def run(code: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_one_kernel_is_selected_and_the_portable_one_is_last() -> None:
    kernels = cpu_kernels()
    assert [kernel.selected for kernel in kernels].count(True) == 1
    assert kernels[-1].name == "scalar"
    assert kernels[-1].available
    assert library_path().is_file()


def test_a_block_uses_another_kernel_and_returns() -> None:
    before = cpu_kernels()
    with use_cpu_kernel("scalar"):
        assert [kernel.name for kernel in cpu_kernels() if kernel.selected] == ["scalar"]
    assert cpu_kernels() == before


def test_unknown_kernel_lists_the_known_ones() -> None:
    with (
        pytest.raises(RuntimeError, match="unknown CPU kernel 'sse'; this library has: .*scalar"),
        use_cpu_kernel("sse"),
    ):
        pass


def test_environment_variable() -> None:
    show = "from mbu_ops.backends import cpu_kernels; print([k.name for k in cpu_kernels() if k.selected])"
    assert run(show, MBU_CPU_KERNEL="scalar").stdout.strip() == "['scalar']"
    call = "import torch, mbu_ops.functional as F; F.pack(torch.ones(1, 3, 4, 5))"
    result = run(call, MBU_CPU_KERNEL="turbo")
    assert result.returncode != 0
    assert "RuntimeError: unknown CPU kernel 'turbo'; this library has:" in result.stderr


LARGE_CALLS = """
import torch, mbu_ops.functional as F
torch.set_num_threads(2)
bits, maps = torch.zeros(1, 512, 512, 2, dtype=torch.int32), torch.zeros(1, 64, 256, 256)
for call in (
    lambda: F.pack(maps),
    lambda: F.unpack(bits, 64),
    lambda: F.max_pool2d(bits, 2),
    lambda: F.upsample_bilinear2d(maps, 512),
    lambda: F.head_conv2d(maps, torch.zeros(1, 3, 3, 64), padding=1),
    lambda: F.joined_head([maps], torch.zeros(1, 64)),
):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""


def test_a_first_call_with_threads_says_which_kernel_cannot_run() -> None:
    """The kernel is asked for in front of the threads: what is thrown must not cross torch's parallel region."""
    lacking = {
        kernel.name: f"CPU kernel '{kernel.name}' needs {kernel.isa}, which this processor or operating system does not "
        "offer; unset MBU_CPU_KERNEL to let the best available kernel run"
        for kernel in cpu_kernels()
        if not kernel.available
    }
    known = ", ".join(kernel.name for kernel in cpu_kernels())
    for name, message in {
        "turbo": f"unknown CPU kernel 'turbo'; this library has: {known}",
        **lacking,
    }.items():
        result = run(LARGE_CALLS, MBU_CPU_KERNEL=name)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines() == [message] * 6


def test_import_is_lean(tmp_path: Path) -> None:
    """A device needs torch and mbu_ops alone."""
    code = """
import sys, torch
before = set(sys.modules)
import mbu_ops
new = {name.split(".")[0] for name in set(sys.modules) - before}
heavy = {"lightning", "pytorch_lightning", "segmentation_models_pytorch", "lightning_mbu", "torchvision", "numpy"}
print(sorted(new & heavy), sorted(n for n in new if n not in sys.stdlib_module_names))
"""
    assert run(code, cwd=tmp_path).stdout.strip() == "[] ['mbu_ops']"


def test_import_works_from_the_project_root() -> None:
    root = Path(__file__).resolve().parents[2]
    result = run("import mbu_ops, torch; print(torch.ops.mbu.conv2d.default)", cwd=root)
    assert result.stdout.strip() == "mbu.conv2d.default", result.stderr
