"""What looks for settings before training, and what every rank of a distributed run relies on."""

import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch import nn

from lightning_mbu import MBUQuantize
from lightning_mbu.models.unet import DoubleConv, Up
from lightning_mbu.prepare import quantized_layers

PHASED = {"float_share": 0.25, "incremental_share": 0.25}


class SmallUNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)
        self.down, self.up = DoubleConv(8, 8, True), Up(8, 8, False)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.up(self.down(self.pool(x)), x))


@pytest.fixture
def tiny(tiny):
    class Small(type(tiny)):
        def __init__(self):
            super().__init__(SmallUNet(), size=16)
            self.batch_size = 1

        def train_dataloader(self):
            data = super().train_dataloader().dataset
            return torch.utils.data.DataLoader(data, batch_size=self.batch_size)

    torch.manual_seed(0)
    return Small()


def as_it_was(module, expected):
    found = dict(module.model.named_parameters())
    return all(torch.equal(found[name], value) for name, value in expected.items())


def fits_to_the_end(run, module, quantizer):
    run.fit(module)
    return quantizer.phase == "quantized" and all(float(x.gate) == 1 for _, x in quantized_layers(module))


def test_the_search_for_a_learning_rate_leaves_everything_as_it_was(tiny, trainer):
    quantizer = MBUQuantize(**PHASED)
    run = trainer(quantizer)
    expected = {name: p.clone() for name, p in tiny.model.named_parameters()}
    found = Tuner(run).lr_find(tiny, num_training=4, min_lr=1e-4, max_lr=1e-2, update_attr=False)
    assert len(found.results["lr"]) >= 4
    assert as_it_was(tiny, expected)
    assert fits_to_the_end(run, tiny, quantizer)


def test_the_search_for_a_batch_size_leaves_everything_as_it_was(tiny, trainer):
    quantizer = MBUQuantize(**PHASED)
    run = trainer(quantizer)
    expected = {name: p.clone() for name, p in tiny.model.named_parameters()}
    size = Tuner(run).scale_batch_size(tiny, mode="power", max_trials=2, steps_per_trial=2)
    assert size == tiny.batch_size == 4
    assert as_it_was(tiny, expected)
    assert fits_to_the_end(run, tiny, quantizer) and run.global_step == 8


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    "finder",
    [
        lambda: BatchSizeFinder(max_trials=2, steps_per_trial=1),
        lambda: LearningRateFinder(num_training_steps=4, min_lr=1e-4, max_lr=1e-2, update_attr=False),
    ],
    ids=["batch size", "learning rate"],
)
def test_searches_as_callbacks_in_any_order(tiny, trainer, finder, first):
    quantizer = MBUQuantize(**PHASED)
    callbacks = [finder(), quantizer] if first else [quantizer, finder()]
    assert fits_to_the_end(trainer(*callbacks), tiny, quantizer)


@pytest.mark.parametrize("options", [
    {}, {"scale": "analytic", "mask_rule": "learned"}, {"planes": 2, "shortcuts": True, "shift": True},
    {"mask_blocks": (8, 8), "estimator": "annealed", "weights_after": 0.1, "regularizer": 1e-4},
], ids=lambda options: ",".join(options) or "default")  # fmt: skip
def test_every_parameter_has_a_gradient_in_every_phase(tiny, trainer, options):
    """Data-parallel training waits for them all; one that is unused in some phase would stop it."""
    quantizer, phases = MBUQuantize(**PHASED, **options), set()
    tiny.batch_size = 2

    def look(optimizer):
        phases.add(quantizer.phase)
        missing = [name for name, p in tiny.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing, (quantizer.phase, missing)

    tiny.on_before_optimizer_step = look
    trainer(quantizer, limit_val_batches=0).fit(tiny)
    assert phases == {"float", "incremental", "quantized"}
