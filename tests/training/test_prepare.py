import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from lightning_mbu import make_plan, prepare
from lightning_mbu.models import MBUNet
from lightning_mbu.models.shortcut import match_channels
from lightning_mbu.prepare import quantized_layers

NETWORKS = {
    "plain": lambda: MBUNet(width=8),
    "shortcuts": lambda: MBUNet(width=8, shortcuts=True),
    "resnet34": lambda: smp.Unet("resnet34", encoder_weights=None),
    "mobilenet_v2": lambda: smp.Unet("mobilenet_v2", encoder_weights=None),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_surgery(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    x = torch.randn(2, 3, 64, 64)
    expected, keys = model(x), set(model.state_dict())
    parameters = {name: p for name, p in model.named_parameters()}
    plan = make_plan(model, x)
    assert prepare(model, plan) is model
    assert keys <= set(model.state_dict())
    assert all(dict(model.named_parameters())[name] is p for name, p in parameters.items())
    assert [n for n, _ in quantized_layers(model)] and all(
        float(m.gate) == 1 for _, m in quantized_layers(model)
    )
    once = str(model)
    assert str(prepare(model, plan)) == once, "applying a plan twice changes nothing"
    for _, layer in quantized_layers(model):
        layer.gate.fill_(0)
    assert torch.allclose(model(x), expected, atol=1e-4 * float(expected.abs().max()))


def test_copies_train_and_round_trip_their_state():
    torch.manual_seed(0)
    model = MBUNet(width=8)
    plan = make_plan(model, torch.empty(1, 3, 32, 32))
    prepare(model, plan)
    twin = prepare(MBUNet(width=8), plan)
    twin.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(twin.eval()(x), model.eval()(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_plan_of_another_model_changes_nothing():
    model = smp.Unet("resnet34", encoder_weights=None)
    before = str(model)
    with pytest.raises(ValueError, match="Make the plan from this model"):
        prepare(model, make_plan(MBUNet(width=8), torch.empty(1, 3, 32, 32)))
    assert str(model) == before


def test_second_plan_that_differs_is_refused():
    model, x = MBUNet(width=8), torch.empty(1, 3, 32, 32)
    every, few = make_plan(model, x, masked="all"), make_plan(model, x)
    prepare(model, few)
    with pytest.raises(ValueError, match="already binary and the plan wants masked"):
        prepare(model, every)


def test_shared_modules_stay_shared():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 16, 3, padding=1)
            self.a = nn.Conv2d(16, 16, 3, padding=1)
            self.b = self.a
            self.head = nn.Conv2d(16, 1, 1)

        def forward(self, x):
            return self.head(self.b(self.a(self.first(x))))

    model = Twice()
    prepare(model, make_plan(model, torch.empty(1, 3, 16, 16)))
    assert model.a is model.b and len(list(quantized_layers(model))) == 1


def test_shortcuts_fit_channels():
    x = torch.arange(4.0).view(1, 4, 1, 1)
    assert match_channels(x, 8).flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert match_channels(x, 2).flatten().tolist() == [1, 2]
    assert match_channels(x, 4) is x
    with pytest.raises(ValueError, match="from 4 to 6 channels"):
        match_channels(x, 6)


def test_unet_refuses_sizes_it_cannot_halve():
    with pytest.raises(ValueError, match="Pad the images to 48x32"):
        MBUNet(width=8)(torch.empty(1, 3, 40, 32))
    with pytest.raises(ValueError, match="must all be at least 1"):
        MBUNet(width=0)
