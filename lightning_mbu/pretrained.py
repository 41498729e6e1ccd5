"""Trained masked-binary smp models in a folder: smp's own files, and the plan beside them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from .compiled import inside_compiled
from .plan import Plan
from .prepare import plan_of, prepare

PLAN_NAME = "mbu.json"


def save_trained(
    model: nn.Module, folder: str | Path, options: dict[str, Any] | None = None, **card: Any
) -> Path:
    """Writes a trained smp model with latent weights, to train it on or convert it elsewhere.

    Args:
        model: an smp model after `prepare` or training with `MBUQuantize`.
        folder: made if it does not exist.
        options: what `prepare` was given besides the plan, where it was not the default.
        card: for smp's `save_pretrained`, such as `metrics` and `dataset`.

    Returns:
        The folder.

    Raises:
        ValueError: `model` has no plan, or is no smp model.
    """
    model = inside_compiled(model)
    plan = plan_of(model)
    if plan is None or not hasattr(model, "save_pretrained"):
        raise ValueError(
            f"{type(model).__name__} is not a trained smp model: it has no "
            f"{'plan' if plan is None else 'save_pretrained'}. Train it with MBUQuantize first; a packed model has "
            "save_pretrained of its own."
        )
    folder = Path(folder)
    model.save_pretrained(folder, **card)  # type: ignore[operator]
    stored = {"plan": plan.to_json(), "options": options or {}}
    (folder / PLAN_NAME).write_text(json.dumps(stored, indent=2) + "\n")
    return folder


def load_trained(folder: str | Path) -> nn.Module:
    """Reads what `save_trained` has written: the prepared model, all gates at 1, in evaluation mode.

    Raises:
        FileNotFoundError: the folder has no plan; a float smp checkpoint is read by smp's own `from_pretrained`.
    """
    folder = Path(folder)
    if not (folder / PLAN_NAME).is_file():
        raise FileNotFoundError(
            f"{folder} has no {PLAN_NAME}, so it holds no masked-binary model. "
            "Read a float one with segmentation_models_pytorch.from_pretrained and train it with MBUQuantize."
        )
    stored = json.loads((folder / PLAN_NAME).read_text())
    config = json.loads((folder / "config.json").read_text())
    smp = importlib.import_module("segmentation_models_pytorch")
    model = getattr(smp, config.pop("_model_class"))(**{**config, "encoder_weights": None})
    prepare(model, Plan.from_json(stored["plan"]), **stored["options"])
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    return model.eval()
