"""Packages that AOTInductor has compiled (``lightning_mbu.export``): loading needs torch and these operations only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from . import _library


def load_package(path: str | Path) -> Any:
    """Loads a ``.pt2`` package.

    Args:
        path: written by ``lightning_mbu.export`` on a processor with the same instruction sets.

    Returns:
        A callable: float32 ``[N, C, H, W]`` -> what the trained model returns.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: this install has no kernels, or the file is no package.
    """
    _library.require()
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    return torch._inductor.aoti_load_package(str(path))
