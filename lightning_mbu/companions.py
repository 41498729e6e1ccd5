"""What stands beside `MBUQuantize` in a Trainer: ranking, learning rates, averaged weights, the clock."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .absorbed import absorb_calls
from .atomic import write_atomically
from .compiled import inside_compiled
from .plan import Plan
from .prepare import quantized_layers
from .schedule import Phases, warm_restart_cosine

_RATE = "mbu_rate"  # the configured learning rate, kept in a parameter group, so that it is saved with the optimizer


def quantizer_of(trainer: Trainer) -> Any:
    """The `MBUQuantize` of `trainer`.

    Raises:
        MisconfigurationException: it has none.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if hasattr(callback, "phases") and hasattr(callback, "phase"):
            return callback
    raise MisconfigurationException(
        "this callback or scheduler follows the phases of MBUQuantize, and the Trainer has none. "
        "Add it: Trainer(callbacks=[MBUQuantize(), ...])."
    )


def refuse_sharding(trainer: Trainer) -> None:
    """Raises MisconfigurationException where the strategy of `trainer` splits weights between processes.

    A mask comes from the mean magnitude of a whole layer, which no process would hold.
    """
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        raise MisconfigurationException(
            f"MBUQuantize does not support {type(trainer.strategy).__name__}: it shards the latent weights that masks "
            'are computed from. Use strategy="ddp".'
        )


def find_network(pl_module: LightningModule, name: str | None) -> nn.Module:
    """The module called `name`, or the only child that has convolutions; without a wrapper of torch.compile.

    Raises:
        MisconfigurationException: there is no such module, or no single candidate.
    """
    children = dict(pl_module.named_children())
    if name is not None:
        if name not in dict(pl_module.named_modules()):
            raise MisconfigurationException(
                f"MBUQuantize(model={name!r}): {type(pl_module).__name__} has no such module; "
                f"it has {', '.join(children) or 'none'}."
            )
        return inside_compiled(pl_module.get_submodule(name))
    found = [
        name for name, child in children.items()
        if any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in child.modules())
    ]  # fmt: skip
    if len(found) != 1:
        raise MisconfigurationException(
            f"MBUQuantize found {len(found)} modules with convolutions in {type(pl_module).__name__}"
            f" ({', '.join(found) or 'no candidates'}) and needs one: keep the network in one attribute,"
            " such as self.model, and name it with MBUQuantize(model='...') if there are several."
        )
    return inside_compiled(pl_module.get_submodule(found[0]))


class FinalPhaseCheckpoint(ModelCheckpoint):
    """`ModelCheckpoint` that ranks fully quantized networks only.

    A float epoch may score better and cannot be packed. For resuming, add an ordinary `ModelCheckpoint` that does not
    rank: `ModelCheckpoint(save_last=True, save_top_k=0)`.
    """

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any, **options: Any) -> None:
        if quantizer_of(trainer).phase == "quantized":
            super().on_train_batch_end(trainer, *arguments, **options)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if quantizer_of(trainer).phase == "quantized":
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if quantizer_of(trainer).phase == "quantized":
            super().on_train_epoch_end(trainer, pl_module)


class FinalPhaseStopping(EarlyStopping):
    """`EarlyStopping` that watches the fully quantized network only: at a switch every metric falls for a while."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if quantizer_of(trainer).phase == "quantized":
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if quantizer_of(trainer).phase == "quantized":
            super().on_train_epoch_end(trainer, pl_module)


def phase_schedule(optimizer: Optimizer, trainer: Trainer, final: float = 0.0) -> dict[str, Any]:
    """A learning-rate schedule to return from `configure_optimizers`: a cosine in each phase, restarted at the next.

    Args:
        optimizer: its learning rates are those at the start of each phase.
        trainer: `self.trainer`; has an `MBUQuantize`.
        final: factor of the learning rate at the end of each phase.

    Returns:
        What Lightning takes under `"lr_scheduler"`.

    References:
        BiSegUNet, figure 5; SGDR, arXiv:1608.03983.
    """
    quantizer = quantizer_of(trainer)

    def factor(step: int) -> float:
        batch = (
            trainer.fit_loop.epoch_loop.batch_idx + 1
        )  # Lightning asks after a batch, for the one that follows
        return warm_restart_cosine(quantizer.progress(trainer, batch), quantizer.phases, final)

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


def set_rates(optimizers: Iterable[Optimizer], progress: float, phases: Phases) -> None:
    """Sets every learning rate to its configured value times the cosine of its phase."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault(_RATE, group["lr"]) * warm_restart_cosine(progress, phases)


def rate(trainer: Trainer) -> dict[str, float]:
    """`mbu/lr`, the first learning rate, where no scheduler is configured: LearningRateMonitor knows schedulers alone."""
    if trainer.lr_scheduler_configs or not trainer.optimizers:
        return {}
    return {"mbu/lr": trainer.optimizers[0].param_groups[0]["lr"]}


def copy_again(trainer: Trainer, pl_module: LightningModule, stage: str, quantizer: Callback) -> None:
    """Lets callbacks that copied the network before the surgery, because they are listed earlier, copy it again."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callback is quantizer:
            return
        if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
            callback.setup(trainer, pl_module, stage)


class PlanKeeper(Callback):
    """Repairs what a strategy undoes: `sync_batchnorm=True` replaces batch norms after the surgery, and at the end."""

    plan: Plan | None
    network: Callable[[LightningModule], nn.Module]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = self._silence_again(pl_module)
        modules = {id(module) for module in network.modules()}
        layers = [(name, layer) for name, layer in quantized_layers(network) if layer.bridge is not None]
        lost = [name for name, layer in layers if id(layer.bridge) not in modules]
        if lost:
            raise MisconfigurationException(
                f"{len(lost)} batch norms, first that behind {lost[0]}, have been replaced after shortcuts or shift of "
                "MBUQuantize had joined them to their layers. Leave out those options, or sync_batchnorm=True."
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._silence_again(pl_module)

    def _silence_again(self, pl_module: LightningModule) -> nn.Module:
        network = self.network(pl_module)
        if self.plan is not None:
            absorb_calls(network, self.plan.silenced)
        return network


def time_share(trainer: Trainer) -> float | None:
    """Share of `max_time` that has passed, the same on all ranks; None where the run is not limited by time."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and callback._duration is not None:
            share = callback.time_elapsed() / max(callback._duration, 1e-9)
            return float(trainer.strategy.broadcast(share))
    return None


def check_length(trainer: Trainer) -> None:
    """Raises MisconfigurationException where nothing ends the run."""
    endless = trainer.max_steps == -1 and trainer.max_epochs in (-1, None)
    if endless and time_share(trainer) is None:
        raise MisconfigurationException(
            "MBUQuantize plans its phases as shares of the run, and this Trainer runs without end "
            f"(max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}). Give one of them, or max_time."
        )


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that replace an older one only when they are complete, also on a full disk and after a power cut.

    Lightning writes to the system's folder for temporary files and moves the file from there. Where that lies on another
    file system, moving is copying over the old checkpoint, and what ends it half-way leaves neither.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if storage_options is not None or "://" in str(path):  # refused there, or written to a remote store
            return super().save_checkpoint(checkpoint, path, storage_options)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_atomically(path, content.getbuffer())


def write_whole(trainer: Trainer) -> None:
    """Has `trainer` write its checkpoints as `WholeCheckpoints` does, unless the user chose another way."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()


def count_epoch(trainer: Trainer) -> None:
    """Call before each batch: counts an epoch that Lightning 2.6 enters uncounted.

    It does so where it resumes from a checkpoint of an epoch's last step. The next checkpoint then looks like one behind a
    finished epoch, and a run that resumes from that trains the same epoch's batches again.
    """
    progress = trainer.fit_loop.epoch_progress
    current: Any = progress.current
    if current.started == current.processed:
        progress.increment_ready()
        progress.increment_started()


def refuse_another_plan(stored: Plan, own: Plan) -> None:
    """Raises MisconfigurationException where a checkpoint's plan decides otherwise than the callback's."""
    if _decisions(stored) == _decisions(own):
        return
    changed = [
        f"{new.name}: {old.kind} in the checkpoint, {new.kind} now"
        for old, new in zip(stored.layers, own.layers, strict=False) if old.kind != new.kind
    ]  # fmt: skip
    raise MisconfigurationException(
        "this checkpoint was trained with another plan ("
        + ("; ".join(changed[:3]) or "the layers or their thresholds differ")
        + "). Use the same model, input_size and MBUQuantize settings, or save the old plan with "
        "Plan.to_json and pass MBUQuantize(plan='plan.json')."
    )


def _decisions(plan: Plan) -> list[tuple[Any, ...]]:
    names = ("name", "kind", "threshold", "absorbs", "position", "planes", "shortcut", "shift")
    return [tuple(getattr(layer, name) for name in names) for layer in plan.layers]
