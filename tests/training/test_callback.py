import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_mbu import MBUQuantize, Plan, make_plan
from lightning_mbu.absorbed import AbsorbedActivation
from lightning_mbu.layers import QuantizedConvolution
from lightning_mbu.prepare import quantized_layers


class GateLog(Callback):
    """Gates at each step, in conversion order, and the phase."""

    def __init__(self, quantizer):
        self.quantizer, self.gates, self.phases = quantizer, [], []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        layers = dict(quantized_layers(pl_module.model))
        self.gates.append([float(layers[x.name].gate) for x in self.quantizer.plan.quantized])
        self.phases.append(self.quantizer.phase)


def test_phases_move_the_gates_and_nothing_else(tiny, trainer):
    quantizer = MBUQuantize(float_share=0.25, incremental_share=0.5)
    log = GateLog(quantizer)
    parameters = None

    class Parameters(Callback):
        def on_train_start(self, trainer, pl_module):
            nonlocal parameters
            parameters = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}

    trainer(quantizer, log, Parameters()).fit(tiny)
    assert log.phases == ["float"] * 4 + ["incremental"] * 8 + ["quantized"] * 4
    assert log.gates[3] == [0.0] * 21 and log.gates[-1] == [1.0] * 21
    opened = [sum(gates) for gates in log.gates]
    assert opened == sorted(opened) and 0 < opened[6] < 21
    assert all(gates == sorted(gates, reverse=True) for gates in log.gates), "layers switch input to output"
    assert parameters == {id(p) for p in tiny.parameters()}, (
        "the optimizer trains every parameter from the start"
    )


def test_preset_and_explicit_settings():
    quantizer = MBUQuantize("bisegunet", order="cost")
    assert quantizer.phases.float_share == pytest.approx(50 / 180)
    assert (quantizer.order, quantizer.regularizer, quantizer.masked) == ("cost", 1e-4, "none")
    found = [
        (q.phases.float_share, q.planes)
        for q in map(MBUQuantize, ("default", "plain", "mbunet", "bisegunet"))
    ]
    assert found == [(0, 2), (0, 1), (0, 1), (50 / 180, 1)]
    assert MBUQuantize(planes=3).planes == 3 and MBUQuantize("plain", planes=2).planes == 2
    with pytest.raises(ValueError, match="choose one of default, plain, mbunet, bisegunet"):
        MBUQuantize("best")


def test_training_learns_and_all_layers_are_quantized(tiny, trainer):
    before = {name: p.clone() for name, p in tiny.model.named_parameters()}
    run = trainer(MBUQuantize(), epochs=8)
    run.fit(tiny)
    assert run.callback_metrics["val_loss"] < 0.66
    changed = {
        name
        for name, p in tiny.model.named_parameters()
        if name in before and not torch.equal(before[name], p)
    }
    assert changed == set(before)
    assert sum(isinstance(m, QuantizedConvolution) for m in tiny.model.modules()) == 21
    assert sum(isinstance(m, AbsorbedActivation) for m in tiny.model.modules()) == 21


def test_checkpoint_of_another_plan_is_refused(tiny, trainer, tmp_path):
    checkpoints = ModelCheckpoint(tmp_path, filename="last")
    trainer(MBUQuantize(), checkpoints, enable_checkpointing=True, epochs=1).fit(tiny)
    with pytest.raises(
        MisconfigurationException,
        match="trained with another plan .*down3.conv1: binary in the checkpoint, masked now",
    ):
        run = trainer(
            MBUQuantize(masked="all"), ModelCheckpoint(tmp_path), enable_checkpointing=True, epochs=2
        )
        run.fit(type(tiny)(), ckpt_path=tmp_path / "last.ckpt")


def test_logged_numbers(tiny, trainer, tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    quantizer = MBUQuantize(float_share=0.25, incremental_share=0.25)
    run = trainer(quantizer, logger=logger)
    run.fit(tiny)
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    values = {
        name: [
            float(row.split(",")[columns.index(name)]) for row in rows if row.split(",")[columns.index(name)]
        ]
        for name in ("mbu/phase", "mbu/binary_fraction", "mbu/mask_density", "mbu/flip_ratio")
    }
    assert values["mbu/phase"] == [0, 1, 2, 2]
    assert values["mbu/binary_fraction"][0] == 0 and values["mbu/binary_fraction"][-1] == 1
    assert all(0.5 < density < 0.8 for density in values["mbu/mask_density"])
    assert all(0 < ratio < 0.5 for ratio in values["mbu/flip_ratio"])
    assert "mbu/binary_fraction" in run.progress_bar_metrics


@pytest.mark.parametrize("shared", [False, True])
def test_regularizer_adds_its_gradient_before_clipping(tiny, trainer, shared):
    seen = {}
    if shared:
        tiny.model.down4.conv2.weight = tiny.model.down4.conv1.weight

    class Before(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            parameters = pl_module.named_parameters(remove_duplicate=False)
            seen.update({n: p.grad.clone() for n, p in parameters})

    class After(Before):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            for name, layer in quantized_layers(pl_module.model):
                w = layer.weight.detach()
                pull = 0.3 * (w - torch.sign(w)).sign()
                assert torch.allclose(layer.weight.grad - seen[f"model.{name}.weight"], pull, atol=1e-6)
            seen["checked"] = True

    trainer(Before(), MBUQuantize("plain", regularizer=0.3), After(), max_steps=1).fit(tiny)
    assert seen["checked"]


def test_stored_plan_can_be_given_back(tiny, trainer, tmp_path):
    plan = make_plan(tiny.model, torch.empty(1, 3, 32, 32), masked="all", exclude=["up1"])
    (tmp_path / "plan.json").write_text(plan.to_json())
    quantizer = MBUQuantize(plan=str(tmp_path / "plan.json"))
    trainer(quantizer, max_steps=1).fit(tiny)
    assert quantizer.plan == plan
    assert Plan.from_json(quantizer.state_dict()["plan"]) == plan


def test_validate_and_predict_run_fully_quantized(tiny, trainer):
    run = trainer(MBUQuantize(float_share=0.9))
    run.validate(tiny, verbose=False)
    assert all(float(layer.gate) == 1 for _, layer in quantized_layers(tiny.model))


def test_run_without_an_end(tiny, trainer):
    with pytest.raises(MisconfigurationException, match="runs without end"):
        trainer(MBUQuantize(), epochs=-1).fit(tiny)


@pytest.mark.parametrize(
    "attribute, words", [("nose", "has no such module"), (None, "found 2 modules with convolutions")]
)
def test_network_that_cannot_be_found(tiny, trainer, attribute, words):
    tiny.second = nn.Conv2d(3, 3, 3)
    with pytest.raises(MisconfigurationException, match=words):
        trainer(MBUQuantize(model=attribute)).fit(tiny)


def test_named_network_and_input_size(tiny, trainer):
    tiny.second = nn.Conv2d(3, 3, 3)
    quantizer = MBUQuantize(model="model", input_size=(64, 48))
    trainer(quantizer, max_steps=1).fit(tiny)
    assert quantizer.plan.input_shape == (1, 3, 64, 48)
