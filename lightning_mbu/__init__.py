"""Masked-binary segmentation networks for PyTorch Lightning.

model -> make_plan -> prepare -> train (MBUQuantize) -> convert -> verify -> torch.compile
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .checkpoints import load_from_checkpoint as load_from_checkpoint
from .checkpoints import prepare_from_checkpoint as prepare_from_checkpoint
from .deploy import PackedModel as PackedModel
from .deploy import convert as convert
from .deploy import export as export
from .deploy import load as load
from .deploy import save as save
from .deploy import verify as verify
from .plan import Plan as Plan
from .plan import make_plan as make_plan
from .prepare import prepare as prepare
from .pretrained import load_trained as load_trained
from .pretrained import save_trained as save_trained
from .summary import summary as summary

if TYPE_CHECKING:
    from .callback import MBUQuantize as MBUQuantize
    from .companions import FinalPhaseCheckpoint as FinalPhaseCheckpoint
    from .companions import FinalPhaseStopping as FinalPhaseStopping
    from .companions import phase_schedule as phase_schedule

# What trains is imported when it is first named: Lightning takes longer to import than a plan takes to make.
_TRAINS = {
    "MBUQuantize": "callback",
    "FinalPhaseCheckpoint": "companions",
    "FinalPhaseStopping": "companions",
    "phase_schedule": "companions",
}


def __getattr__(name: str) -> Any:
    if name in _TRAINS:
        return getattr(import_module(f".{_TRAINS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_TRAINS])
