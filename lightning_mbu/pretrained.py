"""Trained masked-binary smp models in a folder or on the Hub: smp's own files, and the plan beside them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn

from .atomic import write_atomically
from .cards import trained_card
from .compiled import inside_compiled
from .plan import Plan
from .prepare import plan_of, prepare

PLAN_NAME = "mbu.json"


def save_trained(
    model: nn.Module,
    folder: str | Path,
    options: dict[str, Any] | None = None,
    *,
    metrics: dict[str, Any] | None = None,
    dataset: str | None = None,
    repo_id: str | None = None,
    private: bool = False,
    token: str | None = None,
) -> Path:
    """Writes a trained smp model with latent weights, to train it on or convert it elsewhere.

    Args:
        model: an smp model after `prepare` or training with `MBUQuantize`.
        folder: made if it does not exist; a model card that is there already stays.
        options: what `prepare` was given besides the plan, where it was not the default.
        metrics, dataset: for the model card.
        repo_id: also push the folder to this repository of the Hugging Face Hub.
        private, token: of that repository.

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
    card = folder / "README.md"
    has_card = card.exists()
    model.save_pretrained(folder)  # type: ignore[operator]
    stored = {"plan": plan.to_json(), "options": options or {}}
    write_atomically(folder / PLAN_NAME, (json.dumps(stored, indent=2) + "\n").encode())
    if not has_card:  # smp has written one that loads with smp alone, which cannot read these layers
        trained_card(type(model).__name__, plan, metrics, dataset).save(card)
    if repo_id is not None:
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder)
    return folder


def load_trained(folder: str | Path, *, revision: str | None = None, token: str | None = None) -> nn.Module:
    """Reads what `save_trained` has written: the prepared model, all gates at 1, in evaluation mode.

    Args:
        folder: a folder, or a repository of the Hugging Face Hub.
        revision, token: of that repository.

    Raises:
        FileNotFoundError: no such folder or repository, or it has no plan; a float smp checkpoint is read by smp's own
            `from_pretrained`.
        ValueError: a file in it is damaged, or of something else.
    """
    place = Path(folder)
    if not place.is_dir():
        try:
            place = Path(snapshot_download(str(folder), revision=revision, token=token))
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise FileNotFoundError(
                f"{folder} is no folder here, and no repository that can be reached: {error}"
            ) from error
    if not (place / PLAN_NAME).is_file():
        raise FileNotFoundError(
            f"{folder} has no {PLAN_NAME}, so it holds no masked-binary model. "
            "Read a float one with segmentation_models_pytorch.from_pretrained and train it with MBUQuantize."
        )
    try:
        stored = json.loads((place / PLAN_NAME).read_text())
        config = json.loads((place / "config.json").read_text())
        make = getattr(importlib.import_module("segmentation_models_pytorch"), config.pop("_model_class"))
        # Only networks: smp has functions too, and some of them reach for the network or for files.
        if not (isinstance(make, type) and issubclass(make, nn.Module)):
            raise TypeError(f"{make!r:.80} is no network")
        model = make(**{**config, "encoder_weights": None})
        prepare(model, Plan.from_json(stored["plan"]), **stored["options"])
        model.load_state_dict(safetensors.torch.load_file(place / "model.safetensors"))
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        RuntimeError,
        safetensors.SafetensorError,
    ) as error:
        raise ValueError(
            f"{folder} is damaged, or not a folder that save_trained has written: {error!r:.300} "
            "Copy or save it again."
        ) from error
    return model.eval()
