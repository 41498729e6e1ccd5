"""mbu summary: every layer of a float, a trained or a packed network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..model_names import find_model
from ..plan import make_plan
from ..prepare import plan_of, prepare
from ..summary import summary


def run(options: Any, console: Console) -> int:
    """`mbu summary`."""
    if options.channels < 1:
        raise ValueError(f"--channels {options.channels} must be at least 1.")
    path = Path(options.model)
    model = _trained(path)
    if model is None and path.exists() and path.suffix != ".py":
        # Needs the kernels; the others do not.
        from ..deploy.contents import contents
        from .trained import read_packed

        found: Any = contents(read_packed(path))
    else:
        model = model or find_model(options.model, options.arguments)
        shape = (1, options.channels, *options.size)
        if options.one_bit and plan_of(model) is None:
            prepare(model, make_plan(model, torch.empty(shape), planes=options.planes, linear=options.linear))
        found = summary(model, shape)
    if options.json:
        print(json.dumps(found.to_dict()))
    else:
        console.print(found)
    return 0


def _trained(folder: Path) -> Any:
    """The network in a folder of `save_trained`, None for anything else."""
    if not folder.is_dir():
        return None
    from ..pretrained import PLAN_NAME, load_trained  # imports the Hub, which takes a second

    return load_trained(folder) if (folder / PLAN_NAME).is_file() else None
