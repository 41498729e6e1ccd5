"""Masked-binary segmentation networks for PyTorch Lightning.

model -> make_plan -> prepare -> train (MBUQuantize) -> convert -> verify -> torch.compile
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callback import MBUQuantize as MBUQuantize
    from .checkpoints import load_from_checkpoint as load_from_checkpoint
    from .checkpoints import prepare_from_checkpoint as prepare_from_checkpoint
    from .companions import FinalPhaseCheckpoint as FinalPhaseCheckpoint
    from .companions import FinalPhaseStopping as FinalPhaseStopping
    from .companions import phase_schedule as phase_schedule
    from .deploy import PackedModel as PackedModel
    from .deploy import convert as convert
    from .deploy import export as export
    from .deploy import load as load
    from .deploy import save as save
    from .deploy import verify as verify
    from .float_start import init_from as init_from
    from .live_pictures import LogPictures as LogPictures
    from .page import write_page as write_page
    from .plan import Plan as Plan
    from .plan import make_plan as make_plan
    from .prepare import prepare as prepare
    from .pretrained import load_trained as load_trained
    from .pretrained import save_trained as save_trained
    from .summary import summary as summary

__all__ = [
    "FinalPhaseCheckpoint", "FinalPhaseStopping", "LogPictures", "MBUQuantize", "PackedModel", "Plan",
    "convert", "export", "init_from", "load", "load_from_checkpoint", "load_trained", "make_plan",
    "phase_schedule", "prepare", "prepare_from_checkpoint", "save", "save_trained", "summary", "verify",
    "write_page",
]  # fmt: skip

# Imported when they are first named. torch: `mbu --help` does without. What trains, and what reads and writes files:
# Lightning and the Hub take longer to import than a plan takes to make. What packs: it needs the kernels, and an install
# without them plans and trains all the same.
_LATER = {
    **dict.fromkeys(("FinalPhaseCheckpoint", "FinalPhaseStopping", "phase_schedule"), "companions"),
    **dict.fromkeys(("PackedModel", "convert", "export", "load", "save", "verify"), "deploy"),
    **dict.fromkeys(("load_from_checkpoint", "prepare_from_checkpoint"), "checkpoints"),
    **dict.fromkeys(("load_trained", "save_trained"), "pretrained"),
    **dict.fromkeys(("Plan", "make_plan"), "plan"),
    "init_from": "float_start",
    "LogPictures": "live_pictures",
    "MBUQuantize": "callback",
    "prepare": "prepare",
    "summary": "summary",
    "write_page": "page",
}


class _Package(ModuleType):
    """Functions that their module is named after: importing that module would put it into their place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _LATER.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
