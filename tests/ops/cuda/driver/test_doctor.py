"""`mbu doctor` on cards that only the fake driver has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from mbu_ops.cuda import cuda_images

from .conftest import H200, RTX_5090


def test_every_kernel_file_has_a_route_or_a_reason(fake_driver: Path, tmp_path: Path) -> None:
    settings = {
        "MBU_CUDA_DRIVER": str(fake_driver), "FAKE_DEVICES": f"{H200};{RTX_5090}", "MBU_NVRTC": "/nowhere/libnvrtc.so",
        "MBU_CACHE_DIR": str(tmp_path), "COLUMNS": "250",
    }  # fmt: skip
    command = [sys.executable, "-m", "lightning_mbu", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings}, check=True)
    first, second = done.stdout.split("Kernels on ")[1:]
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:4]]
        for line in first.splitlines()
        if len(cells := re.findall(r"│([^│]+)", line)) == 4
    }
    compiled = {image.stem for image in cuda_images()}
    for stem, target in (("conv2d/conv2d_64x64__sm90_and", "sm_90a"), ("stem/stem__sm75", "sm_90a")):
        assert rows[stem][1] == (f"cubin {target}" if stem in compiled else "none")
    why = rows["conv2d/conv2d_64x64__sm80_xor"]
    assert why[:2] == ["6", "none"] and why[2].startswith(
        "not for compute capability 9.0; this kernel is for 80"
    )
    assert "this torch cannot use it, so no operation was tried" in first
    assert "not for compute capability 12.0" in second and ("PTX compute_80" in second) == bool(compiled)
