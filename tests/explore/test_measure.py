"""What a study notes about a network beside its scores."""

import pytest
import torch

from lightning_mbu.explore.measure import operations
from lightning_mbu.explore.training import Trained
from lightning_mbu.models import MBUNet
from lightning_mbu.plan import make_plan
from lightning_mbu.prepare import prepare


def test_each_threshold_counts_once_as_an_operation():
    example = torch.randn(1, 3, 16, 16)
    counts = []
    for planes in (1, 2, 3):
        model = MBUNet(width=8)
        trained = Trained(prepare(model, make_plan(model, example, planes=planes)).eval(), {})
        counts.append(operations(trained, example)["quantized GMAC"])
    assert counts[1:] == pytest.approx([2 * counts[0], 3 * counts[0]]) and counts[0] > 0
