"""Boundary F1: how well the outlines of two masks agree (Csurka et al., BMVC 2013)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchmetrics import Metric

# How far apart two outlines may be, as a share of the image's diagonal; at least one pixel.
_TOLERANCE = 0.0075


class BoundaryF1(Metric):
    """Mean over images of the F1 score of boundary pixels; 1 where neither mask has a boundary, 0 where one has none.

    A pixel of the foreground is on the boundary if one of its eight neighbours is background; the edge of the image is
    none. It counts as found within 0.75 % of the diagonal of the other boundary, in the larger of the two directions.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Two masks `[N, H, W]`, integers or bool; foreground is what is not 0."""
        reach = max(1, round(_TOLERANCE * math.hypot(*preds.shape[1:])))
        found, true = (_boundary(mask[:, None] != 0) for mask in (preds, target))
        shares = [
            (mine * nn.functional.max_pool2d(other, 2 * reach + 1, 1, reach)).sum((1, 2, 3))
            / mine.sum((1, 2, 3))
            for mine, other in ((found, true), (true, found))
        ]
        # 0 / 0 where a mask has no boundary: right if the other has none either.
        neither = torch.isnan(shares[0]) & torch.isnan(shares[1])
        precision, recall = (share.nan_to_num(0.0) for share in shares)
        f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-12)
        self.total += torch.where(neither, 1.0, f1).sum().double()
        self.images += len(preds)

    def compute(self) -> Tensor:
        return (self.total / self.images).float()


def _boundary(mask: Tensor) -> Tensor:
    """bool `[N, 1, H, W]` -> float32, 1 on the boundary."""
    outside = nn.functional.max_pool2d((~mask).float(), 3, 1, 1)
    return outside * mask
