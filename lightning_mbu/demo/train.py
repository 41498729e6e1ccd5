"""The demo's LightningModule and its training run: an ordinary project, to which one callback is added."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.console import Console
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.segmentation import DiceScore, MeanIoU

from ..callback import MBUQuantize


def cell_metrics() -> MetricCollection:
    """Dice and IoU of the foreground, each the mean over images; masks int64 `[N, H, W]`."""
    common: dict[str, Any] = {"num_classes": 2, "include_background": False, "input_format": "index"}
    return MetricCollection(
        {
            "dice": DiceScore(**common, average="macro", aggregation_level="samplewise"),
            "iou": MeanIoU(**common),
        }
    )


@torch.no_grad()
def evaluate(predict: Callable[[Tensor], Tensor], loader: DataLoader) -> dict[str, float]:
    """Dice and IoU of `predict` (image -> logits, `[1, 1, H, W]`) over `loader`, one image at a time."""
    metrics = cell_metrics()
    for images, masks in loader:
        for image, mask in zip(images.split(1), masks.split(1), strict=True):
            metrics.update((predict(image) > 0).long()[:, 0], mask.long()[:, 0])
    return {name: float(value) for name, value in metrics.compute().items()}


class LitSegmenter(L.LightningModule):
    """Binary segmentation: BCE + soft Dice per image, Adam, one cosine over the run.

    Args:
        model: `[N, 3, H, W]` -> logits `[N, 1, H, W]`.
        lr: peak learning rate. Latent weights want a high one: at 1e-5 hardly a sign ever flips.
    """

    def __init__(self, model: nn.Module, lr: float):
        super().__init__()
        self.model = model
        self.lr = lr
        self.dice_loss = DiceLoss("multilabel")
        self.metrics = cell_metrics()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, masks = batch
        logits = self(images)
        # Images take the place of classes, so that Dice is taken per image, as it is scored.
        dice_loss = self.dice_loss(logits.transpose(0, 1), masks.transpose(0, 1))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, masks) + dice_loss
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, masks = batch
        self.metrics.update((self(images) > 0).long()[:, 0], masks.long()[:, 0])

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.metrics.compute().items()}, prog_bar=True)
        self.metrics.reset()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class EpochLog(Callback):
    """Keeps what every epoch logged; prints it as a line where there is no terminal for a progress bar."""

    def __init__(self, name: str, console: Console, printing: bool):
        self.name, self.console, self.printing = name, console, printing
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        self.epochs.append({"lr": trainer.optimizers[0].param_groups[0]["lr"], **values})
        if self.printing:
            shown = "  ".join(
                f"{key} {values[key]:.3f}"
                for key in ("train/loss", "val/dice", "mbu/binary_fraction")
                if key in values
            )
            self.console.print(
                f"{self.name}: epoch {len(self.epochs)}/{trainer.max_epochs}  {shown}", highlight=False
            )


def train(
    name: str,
    model: nn.Module,
    data: L.LightningDataModule,
    *,
    epochs: int,
    lr: float,
    quantizer: MBUQuantize | None = None,
    console: Console,
) -> list[dict[str, float]]:
    """Trains `model` in place and returns what each epoch logged.

    Args:
        name: shown while it trains.
        quantizer: the callback that makes it masked-binary; None trains the float network.

    Raises:
        KeyboardInterrupt: stopped with Ctrl-C.
    """
    terminal = sys.stdout.isatty()
    log = EpochLog(name, console, printing=not terminal)
    callbacks: list[Callback] = [quantizer] if quantizer is not None else []
    callbacks += [log, *([RichProgressBar(leave=True)] if terminal else [])]
    if terminal:
        console.rule(name)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=terminal, num_sanity_val_steps=0,
    )  # fmt: skip
    try:
        trainer.fit(LitSegmenter(model, lr), datamodule=data)
    except SystemExit as stopped:
        # Lightning turns Ctrl-C into an exit of its own after tearing down.
        raise KeyboardInterrupt from stopped
    if trainer.interrupted:
        raise KeyboardInterrupt
    return log.epochs
