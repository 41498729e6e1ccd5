"""PEP 517 backend: scikit-build-core, plus build requirements only where they are not installed yet: torch, whose headers
the library needs, and where nvcc is present CUTLASS, whose products it then carries."""

from __future__ import annotations

import importlib.metadata
import os
import shutil

from scikit_build_core import build as _core
from scikit_build_core.build import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from torch_headers import MINIMUM, find_include, search_path

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


CUTLASS = "nvidia-cutlass==4.2.0.0"  # its generator's interface changes between versions


def _set(name: str) -> bool:
    return os.environ.get(name, "").lower() not in {"", "0", "false", "off", "no"}


def _torch() -> list[str]:
    skip = _set("MBU_SKIP_KERNELS") or find_include()
    return [] if skip else [f"torch>={MINIMUM[0]}.{MINIMUM[1]}"]


def _cutlass() -> list[str]:
    skip = _set("MBU_SKIP_KERNELS") or _set("MBU_SKIP_CUDA") or shutil.which("nvcc") is None
    there = list(importlib.metadata.distributions(name="nvidia-cutlass", path=search_path()))
    return [] if skip or there else [CUTLASS]


def get_requires_for_build_wheel(config_settings: dict[str, str | list[str]] | None = None) -> list[str]:
    return [*_core.get_requires_for_build_wheel(config_settings), *_torch(), *_cutlass()]


def get_requires_for_build_editable(config_settings: dict[str, str | list[str]] | None = None) -> list[str]:
    return [*_core.get_requires_for_build_editable(config_settings), *_torch(), *_cutlass()]
