"""PEP 517 backend: scikit-build-core, plus torch as a build requirement only where none is installed yet."""

from __future__ import annotations

import os

from scikit_build_core import build as _core
from scikit_build_core.build import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from torch_headers import MINIMUM, find_include

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


def _torch() -> list[str]:
    skip = os.environ.get("MBU_SKIP_KERNELS", "").lower() not in {"", "0", "false", "off", "no"}
    return [] if skip or find_include() else [f"torch>={MINIMUM[0]}.{MINIMUM[1]}"]


def get_requires_for_build_wheel(config_settings: dict[str, str | list[str]] | None = None) -> list[str]:
    return [*_core.get_requires_for_build_wheel(config_settings), *_torch()]


def get_requires_for_build_editable(config_settings: dict[str, str | list[str]] | None = None) -> list[str]:
    return [*_core.get_requires_for_build_editable(config_settings), *_torch()]
