"""Models by name, as the command line takes them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


def find_model(name: str, arguments: dict[str, Any] | None = None) -> Any:
    """The float model that `name` stands for.

    Args:
        name: `module:function`, `file.py:function`, or `Architecture/encoder` of smp (also `smp:Architecture/encoder`).
        arguments: of the function, or of the architecture.

    Raises:
        ValueError: none of these forms.
        ImportError, AttributeError: it does not exist.
    """
    head, colon, rest = name.rpartition(":")
    if not colon and name.count("/") == 1 and not Path(name).exists():
        head, rest = "smp", name
    if not head or not rest:
        raise ValueError(
            f"{name!r} names no model. Write module:function, such as lightning_mbu.models:MBUNet, file.py:function, "
            "or Unet/resnet34."
        )
    if head == "smp":
        return _smp_model(rest, arguments or {})
    if head.endswith(".py"):
        return getattr(_module_of(Path(head)), rest)(**(arguments or {}))
    sys.path.insert(0, str(Path.cwd()))
    return getattr(importlib.import_module(head), rest)(**(arguments or {}))


def _smp_model(name: str, arguments: dict[str, Any]) -> Any:
    architecture, _, encoder = name.partition("/")
    smp = importlib.import_module("segmentation_models_pytorch")
    known = sorted(key for key, value in vars(smp).items() if isinstance(value, type))
    if architecture not in known:
        raise ValueError(f"segmentation_models_pytorch has no {architecture!r}; it has {', '.join(known)}.")
    try:
        return getattr(smp, architecture)(encoder or "resnet34", encoder_weights=None, **arguments)
    except KeyError as error:  # of an unknown encoder; its message lists all that there are
        raise ValueError(f"{name}: {str(error.args[0])[:400]}") from error


def _module_of(file: Path) -> Any:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))
    spec.loader.exec_module(module)
    return module
