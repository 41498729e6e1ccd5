"""Boundary F1 against masks whose outlines are known, and against a search over all pairs of pixels."""

import math

import pytest
import torch

from lightning_mbu.explore.boundary import BoundaryF1


def score(preds, target):
    metric = BoundaryF1()
    metric.update(preds, target)
    return float(metric.compute())


def square(first, last, size=64):
    mask = torch.zeros(1, size, size, dtype=torch.long)
    mask[:, first:last, first:last] = 1
    return mask


def test_known_outlines():
    assert score(square(10, 30), square(10, 30)) == 1
    assert score(square(10, 30), square(11, 31)) == pytest.approx(1)  # one pixel is within reach
    assert score(square(10, 30), square(40, 50)) == 0
    empty = torch.zeros(1, 64, 64, dtype=torch.long)
    assert (score(empty, empty), score(empty, square(10, 30)), score(square(10, 30), empty)) == (1, 0, 0)
    assert score(torch.ones_like(empty), empty) == 1  # the edge of the image is no boundary


@pytest.mark.parametrize("size", [24, 200])
def test_against_all_pairs(size):
    torch.manual_seed(0)
    preds, target = ((torch.rand(2, size // 8, size // 8) > 0.5).long() for _ in range(2))
    preds, target = (m.repeat_interleave(8, 1).repeat_interleave(8, 2) for m in (preds, target))
    target = target.roll(1, 2)
    reach, expected = max(1, round(0.0075 * math.hypot(size, size))), []
    for p, t in zip(preds, target, strict=True):
        outlines = []
        for mask in (p, t):
            padded = torch.nn.functional.pad(mask, (1, 1, 1, 1), value=1)
            around = torch.stack([padded[y : y + size, x : x + size] for y in range(3) for x in range(3)])
            outlines.append(((mask == 1) & (around == 0).any(0)).nonzero().float())
        near = torch.cdist(*outlines, p=math.inf) <= reach
        precision, recall = float(near.any(1).float().mean()), float(near.any(0).float().mean())
        expected.append(2 * precision * recall / (precision + recall))
    assert score(preds, target) == pytest.approx(sum(expected) / 2, abs=1e-6)


def test_batches_add_up():
    torch.manual_seed(1)
    preds, target = ((torch.rand(5, 32, 32) > 0.5).long() for _ in range(2))
    metric = BoundaryF1()
    for part in (slice(0, 2), slice(2, 5)):
        metric.update(preds[part], target[part])
    assert float(metric.compute()) == pytest.approx(score(preds, target))
