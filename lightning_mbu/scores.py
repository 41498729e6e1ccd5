"""Scores of multi-class segmentation over a whole data set: mIoU, Dice, pixel accuracy, and each class alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import torch
from rich.table import Table
from torch import Tensor

from .tables import as_text


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says, as the benchmarks count it: pixels of all images together.

    Attributes:
        names: of the classes.
        iou, dice: float64 `[classes]` in [0, 1]; NaN for a class that neither occurs nor is predicted.
        pixels: int64 `[classes]`, labelled pixels of each class.
        accuracy: share of labelled pixels that are right.
    """

    names: tuple[str, ...]
    iou: Tensor
    dice: Tensor
    pixels: Tensor
    accuracy: float

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur or are predicted."""
        return self.iou.nanmean().item()

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the classes that occur or are predicted."""
        return self.dice.nanmean().item()

    def __rich__(self) -> Table:
        table = Table(
            title=f"mIoU {self.miou:.1%}, Dice {self.mean_dice:.1%}, pixel accuracy {self.accuracy:.1%}",
            title_justify="left",
        )
        for heading in ("class", "IoU", "Dice", "share of pixels"):
            table.add_column(heading, justify="left" if heading == "class" else "right")
        for row in self.rows():
            table.add_row(*row)
        return table

    def rows(self) -> list[tuple[str, ...]]:
        """One row of text per class: name, IoU, Dice, share of the labelled pixels."""
        total = max(int(self.pixels.sum()), 1)
        shown = [
            ["-" if isnan(v) else f"{v:.1%}" for v in values.tolist()] for values in (self.iou, self.dice)
        ]
        shares = [f"{int(count) / total:.1%}" for count in self.pixels]
        return list(zip(self.names, *shown, shares, strict=True))

    def __str__(self) -> str:
        return as_text(self, 100)


def scores(confusion: Tensor, names: Sequence[str]) -> Scores:
    """Scores from a confusion matrix.

    Args:
        confusion: counts `[classes, classes]`, rows the truth, columns the prediction, as torchmetrics'
            `MulticlassConfusionMatrix` gives.
        names: of the classes.

    Raises:
        ValueError: the matrix is not square with one row per name.
    """
    if confusion.shape != (len(names), len(names)):
        raise ValueError(
            f"the confusion matrix has shape {tuple(confusion.shape)} for {len(names)} classes; "
            "it must have one row and one column per class."
        )
    counts = confusion.double().cpu()
    right, truth, predicted = counts.diag(), counts.sum(1), counts.sum(0)
    # 0 / 0 is NaN: a class that does not occur has no score.
    iou = right / (truth + predicted - right)
    dice = 2 * right / (truth + predicted)
    accuracy = (right.sum() / counts.sum()).item()
    return Scores(tuple(names), iou, dice, truth.to(torch.int64), accuracy)
