"""Training that crashes in any phase and goes on from its checkpoint ends where an uninterrupted run ends."""

from collections.abc import Mapping

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from lightning_mbu import MBUQuantize
from lightning_mbu.models.unet import DoubleConv, Stem, Up

# Step -> phase of its last batch. Switching starts with the seventh; 7 and 9 lie inside an epoch.
CRASHES = {3: "float", 6: "float", 7: "incremental", 9: "incremental", 14: "quantized"}

# The checkpoint callback and the one that crashes are not there when the run goes on.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path")

STEPS = 16  # four epochs of four batches
PHASES = {"float_share": 0.375, "incremental_share": 0.25}


class SmallUNet(nn.Module):
    """One level of `MBUNet`, with learned thresholds, which are calibrated when a layer switches."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool = Stem(3, 8, True), nn.MaxPool2d(2)
        self.down, self.up = DoubleConv(8, 8, True), Up(8, 8, True)
        self.activation, self.head = nn.ReLU(), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        skip = self.stem(x)
        return self.head(self.activation(self.up(self.down(self.pool(skip)), skip)))


class StopAt(Callback):
    """Ends the run the hard way."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyError("crash")


def batch_of(step):
    """Made from the number of the step: a loader begins anew where a run goes on in the middle of an epoch."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(2, 3, 16, 16, generator=generator)
    return x, (nn.functional.avg_pool2d(x.mean(1, keepdim=True), 5, 1, 2) > 0).float()


class OwnSchedule(L.LightningModule):
    """Adam with a schedule of its own."""

    def __init__(self):
        super().__init__()
        self.model = SmallUNet()

    def loss(self):
        x, y = batch_of(self.global_step)
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)

    def training_step(self, batch, batch_idx):
        return self.loss()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=5e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)]

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, 1)), batch_size=1)


class Restarts(OwnSchedule):
    """No schedule: the callback sets learning rates. Momentum is the state of the optimizer."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=5e-3, momentum=0.9)


class TwoOptimizers(OwnSchedule):
    """Optimizes by hand, convolutions and everything else apart."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = self.loss() if self.global_step % 2 == 0 else self.loss() * 0.5
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        weights = [p for p in self.parameters() if p.dim() == 4]
        others = [p for p in self.parameters() if p.dim() != 4]
        return [torch.optim.Adam(weights, lr=5e-3), torch.optim.SGD(others, lr=5e-3, momentum=0.9)], []


RUNS = {
    "own schedule": (OwnSchedule, {"regularizer": 1e-4}),
    "restarts": (Restarts, {"ramp": 0.125, "mask_rule": "learned", "order": "cost"}),
    "two optimizers": (TwoOptimizers, {"scale": "analytic"}),
    "ingredients": (Restarts, {"planes": 2, "shift": True, "clip": 0.2, "weights_after": 0.125, "estimator": "annealed"}),
    "absent blocks": (OwnSchedule, {"mask_blocks": (8, 8), "block_shares": "ranked", "block_ramp": 0.6, "block_regularizer": 1e-4}),
}  # fmt: skip


def start(name):
    L.seed_everything(3, verbose=False)
    module, options = RUNS[name]
    return module(), MBUQuantize(**PHASES, **options)


def state_of(run, quantizer):
    return {
        "model": run.lightning_module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in run.lr_scheduler_configs],
        "callback": quantizer.state_dict(),
        "gates": [(layer.gate, layer.weight_gate, layer.sharpness) for layer in quantizer._layers.values()],
    }


def differences(found, expected, path=""):
    """Paths below which two nested states differ in any value."""
    if isinstance(expected, torch.Tensor):
        return [] if torch.equal(found, expected) else [path]
    if isinstance(expected, list | tuple):
        found, expected = dict(enumerate(found)), dict(enumerate(expected))
    if isinstance(expected, Mapping):
        assert found.keys() == expected.keys(), path
        return [place for k in expected for place in differences(found[k], expected[k], f"{path}.{k}")]
    return [] if found == expected else [path]


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.parametrize("name", RUNS)
def test_every_value_is_as_if_nothing_had_happened(name, trainer, tmp_path, one_thread):
    factor = 2 if name == "two optimizers" else 1  # Lightning counts the steps of both

    def train(module, quantizer, *callbacks, **options):
        run = trainer(quantizer, *callbacks, enable_checkpointing=bool(callbacks))
        run.fit(module, **options)
        assert run.global_step == STEPS * factor and quantizer.phase == "quantized"
        return state_of(run, quantizer)

    expected = train(*start(name))
    assert all(optimizer["state"] for optimizer in expected["optimizers"])
    for crash_at, phase in CRASHES.items():
        folder = tmp_path / str(crash_at)
        checkpoints = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        module, quantizer = start(name)
        # One step further than what is on disk: what happened there must leave no trace.
        with pytest.raises(KeyError, match="crash"):
            train(module, quantizer, checkpoints, StopAt((crash_at + 1) * factor))
        path = folder / f"step={crash_at * factor}.ckpt"
        stored = torch.load(path, weights_only=True)["callbacks"][quantizer.state_key]
        assert quantizer.phases.phase(stored["progress"]) == phase
        found = train(*start(name), ckpt_path=path, weights_only=True)
        assert differences(found, expected) == [], f"after a crash behind step {crash_at}"
