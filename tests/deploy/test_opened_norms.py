"""Models with `InPlaceABN`: exchanged for PyTorch's operations while they are planned, and for good once prepared."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from lightning_mbu import convert, make_plan, prepare, verify
from lightning_mbu.opened_norms import OpenedNorm, OpenedNorms

from .test_variants import OwnUNet, randomize


class InPlaceABN(nn.BatchNorm2d):
    """Attributes and arithmetic of the package's layer, outside of PyTorch's operations as there."""

    def __init__(self, channels: int, activation: str = "leaky_relu", activation_param: float = 0.0):
        super().__init__(channels)
        self.activation, self.activation_param = activation, activation_param

    def forward(self, x):
        assert not self.training, "written for evaluation alone"
        mean, variance, weight, bias = (
            part.detach().numpy()[:, None, None]
            for part in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        y = (x.detach().numpy() - mean) / np.sqrt(variance + self.eps) * (np.abs(weight) + self.eps) + bias
        slope = 1.0 if self.activation == "identity" else self.activation_param
        return torch.from_numpy(np.where(y > 0, y, y * slope).astype(np.float32))


class InPlaceABNSync(InPlaceABN):
    pass


@pytest.fixture(autouse=True)
def _of_the_package(monkeypatch):
    # For a test alone: jsonargparse imports the modules of all subclasses of nn.Module that it sees.
    for stand_in in (InPlaceABN, InPlaceABNSync):
        monkeypatch.setattr(stand_in, "__module__", "inplace_abn.abn")


def net(**options) -> nn.Module:
    torch.manual_seed(2)
    model = randomize(OwnUNet(nn.Identity, norm=lambda channels: InPlaceABN(channels, **options)))
    with torch.no_grad():
        model.down.norm.weight[::2] *= -1
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"activation_param": 0.1}, {"activation": "identity"}])
def test_opened_norms_compute_the_same(options):
    model, images = net(**options), torch.randn(2, 3, 32, 32)
    keys = list(model.state_dict())
    expected = model(images)
    with OpenedNorms(model) as norms:
        assert list(model.state_dict()) == keys
        norms.keep()
    assert isinstance(model.down.norm, OpenedNorm)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_a_plan_leaves_the_model_as_it_was_and_conversion_is_exact():
    model, images = net(), torch.randn(2, 3, 32, 32)
    before = copy.deepcopy(model.state_dict())
    plan = make_plan(model, images)
    assert type(model.down.norm) is InPlaceABN
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert "down.norm.activation" in plan.bypassed  # a slope of zero is a ReLU, which binarizers take over
    parameters = {id(parameter) for parameter in model.down.norm.parameters()}
    prepare(model, plan)
    assert {id(parameter) for parameter in model.down.norm.parameters()} == parameters
    packed = convert(model.eval(), images)
    assert verify(model, packed, images).mismatches == 0


def test_a_plan_that_does_not_fit_leaves_the_norms_closed():
    model = net()
    plan = replace(make_plan(model, torch.empty(1, 3, 32, 32)), bypassed=("gone",))
    with pytest.raises(ValueError, match="which this model does not have"):
        prepare(model, plan)
    assert type(model.down.norm) is InPlaceABN


def test_norms_of_several_processes_are_refused():
    model = OwnUNet(nn.Identity, norm=InPlaceABNSync)
    with pytest.raises(ValueError, match='InPlaceABNSync .* decoder_use_norm="batchnorm"'):
        make_plan(model, torch.empty(1, 3, 32, 32))
    assert type(model.stem.norm) is InPlaceABNSync


def test_the_package_itself():
    pytest.importorskip(
        "inplace_abn", reason="needs the package inplace_abn, which is compiled where it is installed"
    )
    torch.manual_seed(2)
    model = smp.Unet("resnet18", encoder_weights=None, decoder_use_norm="inplace", encoder_depth=3,
                     decoder_channels=(32, 16, 16))  # fmt: skip
    images = torch.randn(2, 3, 32, 32)
    model.train()(images).mean().backward()
    randomize(model).eval()
    with torch.no_grad():
        expected = model(images)
    plan = make_plan(model, images)
    opened = OpenedNorms(model)
    opened.keep()
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    prepare(model, plan)
    packed = convert(model, images)
    assert verify(model, packed, images).mismatches == 0
