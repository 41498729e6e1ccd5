"""Loads the compiled library. Loading it registers the operations of ``torch.ops.mbu``."""

from __future__ import annotations

import importlib
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import torch

_FOLDERS = sys.modules[__name__.rpartition(".")[0]].__path__  # two in an editable install
# Asked before anything is loaded: that Python takes a file of the stable ABI for one of its own, and crashes in it.
if sysconfig.get_config_var("Py_GIL_DISABLED") and any(
    list(Path(folder).glob("_C.*")) for folder in _FOLDERS
):
    raise ImportError(
        "the kernels of mbu_ops use Python's stable ABI, which free-threaded Python does not have; use the ordinary "
        "build of the same version (python3.13 instead of python3.13t)."
    )

_C: ModuleType | None
try:
    _C = importlib.import_module(f"{__package__}._C")
except ModuleNotFoundError:
    # A pure-Python install (MBU_SKIP_KERNELS=1): training needs no kernels, so say so on first use only.
    _C = None
except ImportError as error:
    raise ImportError(
        f"the kernels of mbu_ops could not be loaded beside torch {torch.__version__}; they need torch >= 2.10 "
        f"and a library built for this Python and processor (reinstall lightning-mbu). The loader said: {error}"
    ) from error

AVAILABLE = _C is not None


def require() -> ModuleType:
    """The compiled module.

    Raises:
        RuntimeError: if this install has no kernels.
    """
    if _C is None:
        raise RuntimeError(
            "this install of mbu_ops has no compiled kernels (it was built with MBU_SKIP_KERNELS=1); "
            "reinstall with MBU_SKIP_KERNELS unset and a C++ compiler: pip install --force-reinstall --no-deps ."
        )
    return _C
