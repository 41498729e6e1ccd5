"""Trained and packed networks from whatever a user has on disk."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints import KEY
from ..compiled import plain_name
from ..deploy import PackedModel, load
from ..deploy.hub import FILE_NAME
from ..model_names import find_model
from ..plan import Plan
from ..prepare import prepare
from ..pretrained import load_trained


def read_trained(
    path: str | Path, model: str | None = None, arguments: dict[str, Any] | None = None
) -> nn.Module:
    """The trained masked-binary network in a folder or a checkpoint, all gates at 1, in evaluation mode.

    Args:
        path: folder of `save_trained`, or checkpoint of a Trainer with `MBUQuantize`.
        model: for a checkpoint, the name of its float network (see `find_model`); a folder names its own.
        arguments: of that network.

    Raises:
        FileNotFoundError: nothing there, or a folder without a plan.
        ValueError: the checkpoint has no plan, needs `model`, or does not fit it.
    """
    path = Path(path)
    if path.is_dir():
        if model is not None:
            raise ValueError(f"{path} is a folder, which names its own network; leave out --model {model}.")
        return load_trained(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file or folder {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"{path} cannot be read as a checkpoint of weights ({reason}). If it holds Python "
            "objects that you trust, load it with lightning_mbu.load_from_checkpoint and call convert yourself."
        ) from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise ValueError(
            f"{path} carries no plan: it was not written by a Trainer with MBUQuantize, so it is a float network. "
            "Train it with that callback first."
        )
    if model is None:
        raise ValueError(
            f"{path} is a checkpoint, which holds weights and no network. Name the float one that was trained: "
            "--model module:function or --model Unet/resnet34."
        )
    return _from_checkpoint(checkpoint, model, arguments or {})


def _from_checkpoint(checkpoint: dict[str, Any], model: str, arguments: dict[str, Any]) -> nn.Module:
    stored = checkpoint[KEY]
    plan = Plan.from_json(stored["plan"])
    network = prepare(find_model(model, arguments), plan, **stored["options"])
    prefix = plain_name(stored["network"])
    prefix = f"{prefix}." if prefix else ""
    names = {plain_name(name): value for name, value in checkpoint["state_dict"].items()}
    weights = {name.removeprefix(prefix): value for name, value in names.items() if name.startswith(prefix)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[1:2] or [str(error)]
        raise ValueError(
            f"the weights do not fit {model} {arguments or ''}: {first[0].strip()[:300]} "
            "Name the network that was trained, with its --arguments."
        ) from error
    for name, state in checkpoint.get("callbacks", {}).items():
        waiting = {layer.name for layer in plan.quantized} - set(state.get("started", ()))
        if name.startswith("MBUQuantize") and waiting:
            warnings.warn(
                f"{len(waiting)} of {len(plan.quantized)} layers were still in float when this checkpoint was "
                "written; they become one-bit now, untrained. Take the checkpoint of a later epoch.",
                UserWarning, stacklevel=3,
            )  # fmt: skip
    return network.eval()


def read_packed(path: str | Path) -> PackedModel:
    """The packed network in a file, or in a folder of `PackedModel.save_pretrained`.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not a packed network, or a damaged one.
    """
    path = Path(path)
    return load(path / FILE_NAME if path.is_dir() else path)
