"""One training run of a study: an `Experiment` in, its scores on validation and test images out."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryF1Score, MulticlassF1Score, MulticlassJaccardIndex
from torchmetrics.segmentation import DiceScore, MeanIoU

from ..callback import MBUQuantize
from ..demo.data import ORIENTATIONS, standardise
from ..models import MBUNet
from ..prepare import quantized_layers
from ..runs import StepReport
from .boundary import BoundaryF1
from .data import IGNORE, DataSet, Labelled
from .plans import block_plan, uniform_plan


@dataclass(frozen=True)
class Experiment:
    """What is trained, and how.

    Attributes:
        layers: `"float"`; `"planned"` (as `MBUQuantize` decides); one kind for every quantized layer, such as
            `"binary"` or `"int4"`; or block -> kind, see `plans.block_plan`.
        options: arguments of `MBUQuantize`, on top of its preset `"plain"`.
        width, shortcuts, stream_dtype: of `MBUNet`; a float network's stream is never rounded.
        epochs, batch_size: passes over the training images, images a step.
        lr: peak of the one cosine; None: 3e-3 with shortcuts, 5e-3 without, which measured best of a few.
        warmup: share of the run over which the learning rate rises to its cosine.
        weight_decay, latent_decay: AdamW on the float layers, on latent weights; 0 is Adam.
        float_lr, extras_lr: factors on the learning rate of float layers, of scales and thresholds.
        taught: distilled from its float twin, which is trained first, as long, from the same seed.
        started: begins with the weights of that twin.
        seed: of weights, order and augmentation.
    """

    layers: str | dict[str, str] = "planned"
    options: dict[str, Any] = field(default_factory=dict)
    width: int = 16
    shortcuts: bool = False
    stream_dtype: str = "float32"
    epochs: int = 12
    batch_size: int = 8
    lr: float | None = None
    warmup: float = 0.0
    weight_decay: float = 0.0
    latent_decay: float = 0.0
    float_lr: float = 1.0
    extras_lr: float = 1.0
    taught: bool = False
    started: bool = False
    seed: int = 0

    @property
    def peak(self) -> float:
        return self.lr if self.lr is not None else (3e-3 if self.shortcuts else 5e-3)


@dataclass
class Trained:
    """A finished run: the network in evaluation mode, and what was measured."""

    model: nn.Module
    scores: dict[str, Any]


class _Images(Dataset):
    """Standardised image float32 `[3, H, W]` and labels int64 `[H, W]`; `augment` draws an orientation."""

    def __init__(self, part: Labelled, turns: bool, augment: bool):
        self.turns, self.augment = turns, augment
        # Once for all epochs: a turned image gives exactly the turned result.
        self.images = torch.stack([standardise(image) for image in part.images])
        self.labels = torch.from_numpy(part.labels).long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        image, label = self.images[item], self.labels[item]
        if self.augment:
            orientation = int(torch.randint(ORIENTATIONS if self.turns else 2, ()))
            turns, mirrored = divmod(orientation, 2)
            image, label = image.rot90(turns, (1, 2)), label.rot90(turns, (0, 1))
            if mirrored:
                image, label = image.flip(2), label.flip(1)
        return image, label


def loader(data: DataSet, split: str, batch_size: int, augment: bool = False) -> DataLoader:
    """Batches of one split, shuffled and turned if `augment`."""
    images = _Images(data.splits[split], data.turns, augment)
    return DataLoader(images, batch_size, shuffle=augment, num_workers=0)


def metrics(classes: int) -> MetricCollection:
    """Dice, IoU and F1. One class: of the foreground, Dice, IoU and boundary F1 the mean over images, F1 over all pixels.
    Several: the mean over classes, pixels of all images counted together, `IGNORE` left out."""
    if classes == 1:
        common: dict[str, Any] = {"num_classes": 2, "include_background": False, "input_format": "index"}
        dice = DiceScore(**common, average="macro", aggregation_level="samplewise")
        every = {"dice": dice, "iou": MeanIoU(**common), "f1": BinaryF1Score(), "boundary_f1": BoundaryF1()}
        return MetricCollection(every)
    several: dict[str, Any] = {"num_classes": classes, "ignore_index": IGNORE, "average": "macro"}
    iou = MulticlassJaccardIndex(**several)
    return MetricCollection({"iou": iou, "dice": MulticlassF1Score(**several)})


def predicted(logits: Tensor) -> Tensor:
    """Logits `[N, C, H, W]` -> labels int64 `[N, H, W]`."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


@torch.no_grad()
def evaluate(model: Callable[[Tensor], Tensor], batches: DataLoader, classes: int) -> dict[str, float]:
    """Scores of `model` over `batches`."""
    scores = metrics(classes)
    for images, labels in batches:
        scores.update(predicted(model(images)), labels)
    return {name: float(value) for name, value in scores.compute().items()}


class _Segmenter(L.LightningModule):
    """Cross entropy + soft Dice; Adam with one cosine."""

    def __init__(self, experiment: Experiment, classes: int):
        super().__init__()
        self.experiment, self.classes = experiment, classes
        stream = "float32" if experiment.layers == "float" else experiment.stream_dtype
        self.model = MBUNet(
            classes=classes, width=experiment.width, shortcuts=experiment.shortcuts, stream_dtype=stream
        )
        self.dice = DiceLoss("multilabel") if classes == 1 else DiceLoss("multiclass", ignore_index=IGNORE)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.model(images)
        if self.classes > 1:
            return nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE) + self.dice(
                logits, labels
            )
        target = labels[:, None].float()
        # Images take the place of classes, so that Dice is taken per image, as it is scored.
        dice = self.dice(logits.transpose(0, 1), target.transpose(0, 1))
        return nn.functional.binary_cross_entropy_with_logits(logits, target) + dice

    def configure_optimizers(self):
        experiment = self.experiment
        groups = MBUQuantize.parameter_groups(
            self.model,
            experiment.peak,
            weight_decay=experiment.weight_decay,
            float_lr=experiment.float_lr,
            extras_lr=experiment.extras_lr,
        )
        for group in groups:
            if group["name"] == "latent":
                group["weight_decay"] = experiment.latent_decay
        optimizer = torch.optim.AdamW(groups, lr=experiment.peak, fused=True)
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate(step / steps, experiment.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(progress: float, warmup: float) -> float:
    """Factor on the learning rate: a cosine from 1 to 0, under a straight line up from 0 while it warms up."""
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return cosine * min(progress / warmup, 1.0) if warmup else cosine


def _quantizer(
    experiment: Experiment, model: nn.Module, size: tuple[int, int], twin: Path
) -> MBUQuantize | None:
    if experiment.layers == "float":
        return None
    taught: dict[str, Any] = {"distill": 1.0, "teacher": str(twin)} if experiment.taught else {}
    quantizer = MBUQuantize("plain", input_size=size, **{**experiment.options, **taught})
    example = torch.empty(1, 3, *size)
    if isinstance(experiment.layers, dict):
        quantizer.plan = block_plan(model, example, experiment.layers)
    elif experiment.layers != "planned":
        quantizer.plan = uniform_plan(model, example, experiment.layers)
    return quantizer


def run(
    experiment: Experiment, data: DataSet, report: Callable[[float], None] = lambda share: None
) -> Trained:
    """Trains one network and scores it.

    Args:
        report: told the share of the run that is done, in [0, 1].

    Returns:
        `scores` are plain numbers: `val` and `test` scores by name, `zeros` (layer -> share of zeros), `minutes`.

    Raises:
        KeyboardInterrupt: stopped with Ctrl-C.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / "twin.pt"
        if experiment.taught or experiment.started:
            trained = run(replace(experiment, layers="float", taught=False, started=False), data)
            torch.save(trained.model.state_dict(), twin)
        model = _train(experiment, data, report, twin)
    scores: dict[str, Any] = {"minutes": (time.monotonic() - began) / 60}
    for split in ("val", "test"):
        found = evaluate(model, loader(data, split, experiment.batch_size), len(data.classes))
        scores |= {f"{split}/{name}": value for name, value in found.items()}
    scores["zeros"] = {
        name: float((layer.quantized_weight() == 0).float().mean()) for name, layer in quantized_layers(model)
    }
    return Trained(model, scores)


def _train(experiment: Experiment, data: DataSet, report: Callable[[float], None], twin: Path) -> nn.Module:
    """The trained network, in evaluation mode; `twin` is read if the experiment has one."""
    L.seed_everything(experiment.seed, verbose=False)
    size = (int(data.splits["train"].images.shape[1]), int(data.splits["train"].images.shape[2]))
    module = _Segmenter(experiment, len(data.classes))
    if experiment.started:
        module.model.load_state_dict(torch.load(twin, weights_only=True))
    quantizer = _quantizer(experiment, module.model, size, twin)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=experiment.epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[StepReport(report), *([quantizer] if quantizer else [])],
    )  # fmt: skip
    try:
        trainer.fit(module, loader(data, "train", experiment.batch_size, augment=True))
    except SystemExit as stopped:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from stopped
    if trainer.interrupted:
        raise KeyboardInterrupt
    return module.model.eval()
