"""Models by name, as the command line takes them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def find_model(name: str, arguments: dict[str, Any] | None = None) -> Any:
    """The float model that `name` stands for.

    Args:
        name: `module:function`, or `smp:Architecture/encoder`.
        arguments: of the function, or of the architecture.

    Raises:
        ValueError: neither form.
        ImportError, AttributeError: it does not exist.
    """
    head, colon, rest = name.partition(":")
    if not colon or not rest:
        raise ValueError(
            f"{name!r} names no model. Write module:function, such as lightning_mbu.models:MBUNet, "
            "or smp:Unet/resnet34."
        )
    if head == "smp":
        architecture, _, encoder = rest.partition("/")
        smp = importlib.import_module("segmentation_models_pytorch")
        return getattr(smp, architecture)(encoder or "resnet34", encoder_weights=None, **(arguments or {}))
    sys.path.insert(0, str(Path.cwd()))
    return getattr(importlib.import_module(head), rest)(**(arguments or {}))
