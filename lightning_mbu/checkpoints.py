"""Checkpoints that know their plan: weights of a masked-binary network, read without the callback that trained it.

Modules find their keys in a checkpoint only after the surgery; the plan for it lies in the checkpoint itself, under
the key `"mbu"`, also where only weights are saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from .compiled import inside_compiled
from .health import check_finite
from .plan import Plan
from .prepare import prepare

KEY = "mbu"

Module = TypeVar("Module", bound=nn.Module)


def store_with_weights(module: Any, network: nn.Module, plan: Plan, options: dict[str, Any]) -> None:
    """Has every later checkpoint of `module`, a LightningModule, carry the plan of its `network`.

    Lightning asks no callback when a checkpoint holds weights only, but it always asks the module.
    """
    name = next(name for name, child in module.named_modules() if inside_compiled(child) is network)
    module.__dict__.setdefault("_mbu_own_on_save", module.on_save_checkpoint)

    def on_save_checkpoint(checkpoint: dict[str, Any]) -> None:
        check_finite(network)
        module.__dict__["_mbu_own_on_save"](checkpoint)
        checkpoint[KEY] = {"plan": plan.to_json(), "network": name, "options": options}

    module.on_save_checkpoint = on_save_checkpoint


def prepare_from_checkpoint(module: nn.Module, checkpoint: Mapping[str, Any]) -> nn.Module:
    """Applies the plan that `checkpoint` carries, so that its weights fit `module`.

    For a LightningModule of your own, in one line: call it in `on_load_checkpoint(self, checkpoint)`.

    Args:
        module: float, of the class that was trained; changed in place. Already prepared: left as it is.
        checkpoint: what `torch.load` returns for a checkpoint of a Trainer with `MBUQuantize`.

    Returns:
        `module`, all gates at 1.

    Raises:
        ValueError: the checkpoint carries no plan, or the plan does not fit the module.
    """
    if KEY not in checkpoint:
        raise ValueError(
            "this checkpoint carries no plan: it was not written by a Trainer with MBUQuantize. "
            "Load it as a float model, or apply the plan yourself: prepare(model, plan)."
        )
    stored = checkpoint[KEY]
    prepare(module.get_submodule(stored["network"]), Plan.from_json(stored["plan"]), **stored["options"])
    return module


def load_from_checkpoint(module_class: type[Module], path: str | Path, **arguments: Any) -> Module:
    """`module_class.load_from_checkpoint(path, **arguments)` for a checkpoint of a masked-binary network.

    Args:
        module_class: the LightningModule that was trained.
        path: checkpoint file; `save_weights_only` ones too.
        arguments: as for Lightning's `load_from_checkpoint`; without `weights_only=False` nothing in the file is run.

    Returns:
        The module with its network prepared and all gates at 1, ready for `convert`.

    Raises:
        ValueError: the checkpoint carries no plan.
    """

    class Prepared(module_class):  # type: ignore[misc,valid-type]
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            prepare_from_checkpoint(self, checkpoint)
            super().on_load_checkpoint(checkpoint)  # type: ignore[misc]

    arguments.setdefault("weights_only", True)  # Lightning's own default is False where `path` is a URL
    module = Prepared.load_from_checkpoint(path, **arguments)  # type: ignore[operator]
    module.__class__ = module_class
    return module
