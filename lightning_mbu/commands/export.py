"""mbu export."""

from __future__ import annotations

import json
from typing import Any

import torch
from rich.console import Console

from ..deploy import export
from .trained import read_packed


def run(options: Any, console: Console) -> int:
    """`mbu export`."""
    if not options.output.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder {options.output.parent} does not exist; create it.")
    packed = read_packed(options.model)
    path = export(packed, torch.zeros(1, packed.input_spec.channels, *options.size), options.output)
    size = path.stat().st_size
    if options.json:
        print(json.dumps({"output": str(path), "bytes": size}))
    else:
        console.print(
            f"{path}: {size / 1e6:.2f} MB, for this processor; docs/export.md says how to run it.",
            highlight=False,
        )
    return 0
