"""A bit that rounding flips, and what follows from it, is told from wrong bits."""

import copy

import pytest
import torch
from torch import nn

from lightning_mbu import convert, make_plan, prepare, verify
from lightning_mbu.deploy.replay import recorded_inputs, settle
from lightning_mbu.layers import quantize_layer
from lightning_mbu.linear import quantize_linear

from .test_variants import OwnUNet, randomize


@pytest.mark.parametrize("planes", [1, 2])
def test_values_at_a_threshold_take_the_side_that_is_wanted(planes):
    layer = quantize_layer(nn.Conv2d(4, 4, 3), "masked", threshold="learned", planes=planes)
    with torch.no_grad():
        layer.threshold.copy_(torch.arange(4 * planes).view_as(layer.threshold) / 8 - 0.3)
    thresholds = layer.threshold.detach().view(planes, 1, 4, 1, 1)
    x = torch.randn(2, 4, 5, 5)
    x[0] = thresholds[0]  # exactly there
    x[1, :, 0] = torch.nextafter(thresholds[-1], thresholds[-1] - 1)[0, :, 0]
    wanted = torch.cat([x - threshold >= 0 for threshold in thresholds], 1)
    near = torch.cat([(x - threshold).abs() <= 1e-7 for threshold in thresholds], 1)
    flipped = torch.where(near, ~wanted, wanted)
    settled = settle(layer, x, flipped)
    assert torch.equal(torch.cat([settled - t >= 0 for t in thresholds], 1), flipped)
    assert torch.allclose(settled, x, atol=1e-6) and torch.equal(settle(layer, x, wanted), x)
    # What is clear of the threshold stays, whatever the packed network says.
    assert torch.equal(settle(layer, x, wanted ^ ~near), x)


def test_rows_of_a_linear_layer():
    layer = quantize_linear(nn.Linear(4, 4), "masked", threshold="learned")
    x = torch.randn(2, 3, 4)
    x[1, 2, 0] = layer.threshold.detach().flatten()[0]
    bits = layer.as_images(x) - layer.threshold.detach().view(1, -1, 1, 1) >= 0
    bits[0, 0, -1] = False
    settled = settle(layer, x, bits)
    assert settled.shape == x.shape and torch.equal(settled != x, torch.zeros_like(x).bool().index_put_(
        (torch.tensor(1), torch.tensor(2), torch.tensor(0)), torch.tensor(True)))  # fmt: skip


def test_what_follows_from_a_rounding_is_not_wrong():
    torch.manual_seed(1)
    model, images = OwnUNet(), torch.randn(1, 3, 32, 32)
    trained = randomize(prepare(model, make_plan(model, images, thresholds="learned"))).eval()
    with recorded_inputs(trained) as inputs:
        trained(images)
    layer = trained.deep.conv
    value = inputs["deep.conv"][0][0, 3, 4, 5]  # one pixel lies exactly at the threshold now: its bit is 1
    with torch.no_grad():
        layer.threshold.view(-1)[3] = value
    other = copy.deepcopy(trained)
    with torch.no_grad():  # and 0 in a network that rounds otherwise
        other.deep.conv.threshold.view(-1)[3] = torch.nextafter(value, value + 1)
    packed = convert(other, images)
    check = verify(trained, packed, images)
    assert check.mismatches == 0 and check.at_rounding > 1, "the bit itself, and what follows from it"
    with torch.no_grad():
        other.deep.conv.threshold.view(-1)[3] = value + 0.5
    assert verify(trained, convert(other, images), images).mismatches > 0
