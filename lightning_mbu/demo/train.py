"""The demo's LightningModule and its training run: an ordinary project, to which one callback is added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.segmentation import DiceScore, MeanIoU

from ..callback import MBUQuantize

_EMPTY = 1e-7


class LitSegmenter(L.LightningModule):
    """Binary segmentation: BCE + soft Dice, Adam, one cosine over the run.

    Args:
        model: `[N, 3, H, W]` -> logits `[N, 1, H, W]`.
        lr: peak learning rate. Latent weights want a high one: at 1e-5 hardly a sign ever flips.
    """

    def __init__(self, model: nn.Module, lr: float = 5e-3):
        super().__init__()
        self.model = model
        self.lr = lr
        self.dice_loss = DiceLoss("binary")
        # Mean over images, so that small and large cells count alike.
        options = {"num_classes": 2, "include_background": False, "input_format": "index"}
        self.metrics = MetricCollection(
            {"dice": DiceScore(**options, aggregation_level="samplewise"), "iou": MeanIoU(**options)}
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, masks = batch
        logits = self(images)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, masks) + self.dice_loss(logits, masks)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        images, masks = batch
        found = (self(images) > 0).long()[:, 0]
        self.metrics.update(found, masks.long()[:, 0])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        values = self.metrics.compute()
        self.log_dict({f"val/{name}": value for name, value in values.items()}, prog_bar=True)
        self.metrics.reset()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
