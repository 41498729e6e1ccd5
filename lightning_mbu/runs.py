"""What commands that train networks of their own share: how far a run is, and Lightning's advice kept away."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import Callback


class StepReport(Callback):
    """Tells `report` the share of the run that is done, in [0, 1], after every step."""

    def __init__(self, report: Callable[[float], Any]):
        self.report = report

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.report(trainer.global_step / max(int(trainer.estimated_stepping_batches), 1))


def quiet_lightning() -> None:
    """Lightning's and torch's advice is for the user's own project, not for a demo or a study."""
    for name in ("lightning.pytorch", "lightning.fabric", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*(LeafSpec|treespec|litlogger|No CUDA runtime).*")
