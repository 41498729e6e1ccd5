"""Activations that are called several times: taken out for the calls that binarizers alone read, exactly."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from lightning_mbu import MBUQuantize, Plan, convert, make_plan, prepare, verify
from lightning_mbu.prepare import quantized_layers


class Residual(nn.Module):
    """A residual block as in resnets: one ReLU, called behind the first norm and behind the sum."""

    def __init__(self, channels: int = 16):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + x)


class Network(nn.Module):
    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.stem, self.blocks, self.head = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Sequential(*blocks),
            nn.Conv2d(16, 1, 1),
        )

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


class OneNormForBoth(Residual):
    """Nothing that runs before it tells the first call of this ReLU from the second."""

    def forward(self, x):
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm1(self.conv2(y))) + x


class FunctionInBetween(Residual):
    def forward(self, x):
        y = self.relu(self.norm1(self.conv1(x)) * 2)
        return self.relu(self.norm2(self.conv2(y)) + x)


class OneLayerForBoth(nn.Module):
    """`conv` reads what went through the ReLU, then what did not: its binarizer cannot apply it to both."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()

    def forward(self, x):
        return self.conv(self.conv(self.relu(self.norm(x))))


def set_gates(model: nn.Module, value: float) -> nn.Module:
    for _, layer in quantized_layers(model):
        layer.gate.fill_(value)
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 16, 16)


@pytest.mark.parametrize("training", [False, True])
def test_each_call_is_decided_by_itself(images, training):
    model = Network(Residual(), Residual()).train(training)
    expected = copy.deepcopy(model)(images)
    plan = make_plan(model, images)
    assert plan.silenced == (("blocks.0.relu", "blocks.0.norm1"), ("blocks.1.relu", "blocks.1.norm1"))
    assert plan.bypassed == () and Plan.from_json(plan.to_json()) == plan
    layers = {layer.name: (layer.absorbs, layer.threshold) for layer in plan.quantized}
    assert layers["blocks.0.conv2"] == layers["blocks.1.conv2"] == ("relu", "zero")
    assert layers["blocks.1.conv1"] == ("none", "learned")
    keys = list(model.state_dict())
    prepare(prepare(model, plan), plan)
    assert [name for name in model.state_dict() if name in keys] == keys
    # A scale divides and multiplies: equal up to that rounding.
    assert torch.allclose(set_gates(model, 0.0)(images), expected, atol=1e-6)


def test_binarizers_see_what_the_activation_would_have_cut_off(images):
    model = Network(Residual())
    prepare(model, make_plan(model, images))
    seen = []
    model.blocks[0].conv2.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    sums = []
    model.head.register_forward_pre_hook(lambda module, args: sums.append(args[0].clone()))
    model(images)
    assert 0.3 < (seen[0] < 0).float().mean() < 0.7
    assert sums[0].min() == 0, "the call behind the sum still acts"


@pytest.mark.parametrize("block", [OneNormForBoth, FunctionInBetween, OneLayerForBoth])
def test_what_cannot_be_told_apart_stays(images, block):
    model = Network(block()).eval()
    expected = model(images)
    plan = make_plan(model, images)
    assert plan.silenced == plan.bypassed == ()
    assert torch.allclose(set_gates(prepare(model, plan), 0.0)(images), expected, atol=1e-6)


def test_copies_compiled_and_packed_networks_do_the_same(images):
    model = Network(Residual(), Residual()).eval()
    prepare(model, make_plan(model, images))
    expected = model(images)
    assert torch.equal(copy.deepcopy(model)(images), expected)
    graphs = []

    def counting(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=counting, fullgraph=True)
    assert torch.equal(compiled(images), expected) and torch.equal(compiled(images), expected)
    assert len(graphs) == 1 and torch.equal(model(images), expected)
    packed = convert(model, images)
    assert verify(model, packed, images).mismatches == 0
    assert torch.allclose(packed(images), expected, atol=1e-5)


def test_compiled_training_is_one_graph_over_all_phases(images):
    eager = Network(Residual())
    prepare(eager, make_plan(eager, images))
    twin, graphs = copy.deepcopy(eager), []

    def counting(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(twin, backend=counting, fullgraph=True)
    for gate in (0.0, 0.5, 1.0):
        for model, call in ((eager, eager), (twin, compiled)):
            set_gates(model, gate)
            model.zero_grad()
            call(images).square().mean().backward()
        for (name, one), two in zip(eager.named_parameters(), twin.parameters(), strict=True):
            assert torch.allclose(one.grad, two.grad, atol=1e-6), (gate, name)
    assert len(graphs) == 1


class Replacing(SingleDeviceStrategy):
    """Puts new batch norms in the place of all, before and after the run, as `sync_batchnorm=True` does."""

    def replace(self):
        for module in list(self.model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    new = nn.BatchNorm2d(child.num_features)
                    new.weight, new.bias = child.weight, child.bias
                    setattr(module, name, new)

    def setup(self, trainer):
        self.replace()
        super().setup(trainer)

    def teardown(self):
        self.replace()
        super().teardown()


def test_batch_norms_that_the_strategy_replaces(tiny, trainer):
    tiny.model = Network(Residual())
    seen = []

    def look(module, args):
        seen.append(args[0].min())

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            pl_module.model.blocks[0].conv2.register_forward_pre_hook(look)

    options = {"accelerator": "auto", "max_steps": 1, "limit_val_batches": 0}
    trainer(MBUQuantize(), Look(), strategy=Replacing(device="cpu"), **options).fit(tiny)
    tiny.model(torch.randn(2, 3, 16, 16))
    assert len(seen) == 2 and max(seen) < 0, "in training and behind it, what the ReLU would cut off is seen"
    tiny.model = Network(Residual())
    with pytest.raises(MisconfigurationException, match="or sync_batchnorm=True"):
        trainer(MBUQuantize(shift=True), strategy=Replacing(device="cpu"), **options).fit(tiny)


def test_a_resnet_learns_no_threshold_behind_a_batch_norm():
    model = smp.Unet("resnet34", encoder_weights=None)
    plan = make_plan(model, torch.empty(1, 3, 64, 64))
    second = [layer for layer in plan.quantized if layer.name.endswith("conv2") and "encoder" in layer.name]
    assert len(second) == 16
    assert {(layer.absorbs, layer.threshold) for layer in second} == {("relu", "zero")}
    with pytest.raises(ValueError, match="'encoder.layer1.0.relu'.*does not have"):
        prepare(smp.Unet("vgg11_bn", encoder_weights=None), Plan((), (), (1,), 0, plan.silenced))
