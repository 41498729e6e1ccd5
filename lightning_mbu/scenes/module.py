"""LitScenes: segmentation into classes with the loss, the optimizer and the schedule of BiSegUNet, or of MBU-Net."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from ..callback import MBUQuantize
from ..demo.train import cell_metrics
from ..schedule import Phases, warm_restart_cosine
from ..scores import Scores, scores
from .labels import IGNORE, label_map

_OPTIMIZERS: dict[str, tuple[Any, dict[str, float]]] = {
    "adam": (torch.optim.Adam, {}), "rmsprop": (torch.optim.RMSprop, {"momentum": 0.9}),
}  # fmt: skip


class LitScenes(L.LightningModule):
    """Cross-entropy with label smoothing + Dice (Eq. 18-20, 26), Adam, a cosine over each phase (Table 10).
    `MBUQuantize(regularizer=...)` adds the last term, Eq. 24 and 25.

    Where an `MBUQuantize` callback is in the Trainer, the learning rate restarts when its layers begin to switch and
    when the last one has; without one there is one cosine.

    One thing before a background (two classes) is also scored as the MBU-Net paper's Table 1 does: Dice and IoU as means
    over images, F1 over all pixels. The paper does not say how it averages; this is how its Dice and F1 can differ.

    Args:
        model: `[N, 3, H, W]` -> logits `[N, classes, H, W]`.
        dataset: sets the classes and their names.
        lr: peak learning rate.
        smoothing: share of the label that all classes divide among themselves (epsilon of Eq. 26).
        dice_weight: weight of the Dice loss; that of the cross-entropy is 1.
        weight_decay: of every parameter, latent weights too, as the papers have it (MBU-Net: 1e-8).
        cosine: False keeps the learning rate as it is (MBU-Net names no schedule).
        float_lr, extras_lr: factors on the learning rate of float layers, of scales and thresholds
            (`MBUQuantize.parameter_groups`).
        optimizer: `"adam"`, or `"rmsprop"` with a momentum of 0.9 (MBU-Net's float networks, section A.3.1).

    Raises:
        ValueError: another optimizer.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: str,
        lr: float = 1e-3,
        smoothing: float = 0.1,
        dice_weight: float = 1.0,
        weight_decay: float = 0.0,
        cosine: bool = True,
        optimizer: str = "adam",
        float_lr: float = 1.0,
        extras_lr: float = 1.0,
    ):
        super().__init__()
        if optimizer not in _OPTIMIZERS:
            raise ValueError(f"optimizer={optimizer!r} is unknown; choose one of {', '.join(_OPTIMIZERS)}.")
        self.optimizer = optimizer
        self.model = model
        self.lr = lr
        self.dice_weight = dice_weight
        self.weight_decay = weight_decay
        self.float_lr, self.extras_lr = float_lr, extras_lr
        self.cosine = cosine
        self.names = label_map(dataset).names
        self.cross_entropy = nn.CrossEntropyLoss(ignore_index=IGNORE, label_smoothing=smoothing)
        self.dice_loss = DiceLoss("multiclass", ignore_index=IGNORE)
        self.confusion = MulticlassConfusionMatrix(len(self.names), ignore_index=IGNORE)
        self.foreground = cell_metrics() if len(self.names) == 2 else None
        self.scores: Scores | None = None  # of the last validation or test
        self.table1: dict[str, float] = {}  # of the last validation or test, where there are two classes

    def on_fit_start(self) -> None:
        # Gradients of a BiSegUNet's grouped convolutions take far less time so on a CPU.
        self.model.to(memory_format=torch.channels_last)

    def on_fit_end(self) -> None:
        self.model.to(memory_format=torch.contiguous_format)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, classes = batch
        logits = self(images)
        loss = self.cross_entropy(logits, classes) + self.dice_weight * self.dice_loss(logits, classes)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, classes = batch
        logits = self(images)
        self.confusion.update(logits, classes)
        if self.foreground is not None:
            self.foreground.update(logits.argmax(1), classes)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def on_train_epoch_end(self) -> None:
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def _log_scores(self, split: str) -> None:
        self.scores = scores(self.confusion.compute(), self.names)
        self.confusion.reset()
        values = {"miou": self.scores.miou, "dice": self.scores.mean_dice, "accuracy": self.scores.accuracy}
        if self.foreground is not None:
            means = {name: float(value) for name, value in self.foreground.compute().items()}
            self.table1 = values = {**means, "f1": float(self.scores.dice[1])}
            self.foreground.reset()
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        make, options = _OPTIMIZERS[self.optimizer]
        groups = MBUQuantize.parameter_groups(self, self.lr, float_lr=self.float_lr, extras_lr=self.extras_lr)
        for group in groups:
            group["weight_decay"] = self.weight_decay
        optimizer = make(groups, lr=self.lr, **options)
        if not self.cosine:
            # A scheduler that does nothing: without one MBUQuantize would bring its own.
            return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)]
        phases = next(
            (c.phases for c in self.trainer.callbacks if isinstance(c, MBUQuantize)),  # type: ignore[attr-defined]
            Phases(),
        )
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warm_restart_cosine(min(step / steps, 1.0), phases)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
