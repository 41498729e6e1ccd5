"""The callback beside what Lightning users already have in their Trainers."""

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from torch import nn

from lightning_mbu import (
    FinalPhaseCheckpoint,
    FinalPhaseStopping,
    MBUQuantize,
    convert,
    load_from_checkpoint,
    phase_schedule,
    prepare_from_checkpoint,
)
from lightning_mbu.prepare import plan_of, quantized_layers

PHASED = {"float_share": 0.25, "incremental_share": 0.25}


class SmallUNet(nn.Module):
    """Three layers that become one-bit: a chain, a shortcut and a concat."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 1, 1)
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        y = torch.relu(self.norms[0](self.a(x)))
        y = x + self.norms[1](self.b(y))
        return self.head(torch.cat([self.norms[2](self.c(y)), x], 1))


@pytest.fixture
def tiny(tiny):
    class Small(type(tiny)):
        def __init__(self):
            super().__init__(SmallUNet(), size=16)

    torch.manual_seed(0)
    return Small()


def all_quantized(module) -> bool:
    layers = [layer for _, layer in quantized_layers(module)]
    return bool(layers) and all(float(layer.gate) == 1 for layer in layers)


@pytest.fixture
def checkpoint(tiny, trainer, tmp_path):
    """Module trained for two steps, and its checkpoint of weights alone."""
    saving = ModelCheckpoint(tmp_path, filename="weights", save_weights_only=True, every_n_train_steps=1)
    trainer(MBUQuantize(), saving, max_steps=2, enable_checkpointing=True).fit(tiny)
    return tiny, tmp_path / "weights.ckpt"


def test_weights_alone_load_without_the_callback(checkpoint):
    trained, path = checkpoint
    module = load_from_checkpoint(type(trained), path, weights_only=True)
    assert type(module) is type(trained) and all_quantized(module)
    assert plan_of(module.model) == plan_of(trained.model)
    expected = trained.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())
    images = torch.randn(1, 3, 16, 16)
    assert torch.equal(convert(module.model, images)(images), convert(trained.model, images)(images))


def test_one_line_in_a_module_makes_lightnings_own_loading_work(checkpoint):
    trained, path = checkpoint

    class Prepared(type(trained)):
        def on_load_checkpoint(self, checkpoint):
            prepare_from_checkpoint(self, checkpoint)

    assert all_quantized(Prepared.load_from_checkpoint(path, weights_only=True))
    with pytest.raises(ValueError, match="carries no plan"):
        prepare_from_checkpoint(trained, {"state_dict": {}})


def test_test_and_predict_from_a_checkpoint(checkpoint, trainer):
    trained, path = checkpoint
    loader = trained.train_dataloader()
    fresh = type(trained)()
    fresh.predict_step = lambda batch, *_: fresh(batch[0])
    run = trainer(MBUQuantize())
    found = torch.cat(run.predict(fresh, loader, ckpt_path=path, weights_only=True))
    with torch.no_grad():
        expected = torch.cat([trained.eval()(x) for x, _ in loader])
    assert torch.allclose(found, expected, atol=1e-5)
    run.validate(fresh, loader, ckpt_path=path, weights_only=True, verbose=False)
    fresh.test_step = fresh.validation_step
    score = run.test(fresh, loader, ckpt_path=path, weights_only=True, verbose=False)
    assert score == run.validate(trained, loader, verbose=False)


def test_a_second_fit_with_a_new_callback_goes_on_with_the_same_plan(tiny, trainer):
    trainer(MBUQuantize(masked="all"), max_steps=1).fit(tiny)
    second = MBUQuantize(masked="all")
    trainer(second, max_steps=2).fit(tiny)
    assert second.plan == plan_of(tiny.model) and len(second.plan.quantized) == 3


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    "averaging",
    [
        lambda: EMAWeightAveraging(decay=0.5),
        lambda: WeightAveraging(),
        lambda: StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=3),
    ],
    ids=["EMA", "average", "SWA"],
)
def test_averaged_weights_in_any_order(tiny, trainer, averaging, first):
    callbacks = [MBUQuantize(**PHASED), averaging()]
    run = trainer(*(callbacks[::-1] if first else callbacks))
    run.fit(tiny)
    assert all_quantized(tiny.model)
    last = {name: p.clone() for name, p in callbacks[1]._average_model.named_parameters()}
    mine = dict(tiny.named_parameters())
    assert len(last) == len(mine)
    for name, value in last.items():
        assert torch.equal(value, mine[name.removeprefix("module.")])
    images = torch.randn(1, 3, 16, 16)
    assert torch.isfinite(convert(tiny.model, images)(images)).all()


@pytest.mark.filterwarnings("ignore:The checkpoint was not created with WeightAveraging")
def test_resuming_averaged_weights(tiny, trainer, tmp_path, one_thread):
    def run(epochs, **options):
        L.seed_everything(2, verbose=False)
        module = type(tiny)()
        saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        callbacks = [EMAWeightAveraging(decay=0.5), MBUQuantize(**PHASED), saving]
        trainer(*callbacks, epochs=epochs, enable_checkpointing=True).fit(
            module, weights_only=False, **options
        )
        return module.state_dict()

    expected = run(4)
    found = run(4, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_only_the_final_phase_is_ranked(tiny, trainer, tmp_path):
    saving = FinalPhaseCheckpoint(tmp_path, monitor="val_loss", save_top_k=-1, filename="{epoch}")
    stopping = FinalPhaseStopping("val_loss", patience=1, min_delta=1e9)  # stops after two checks
    run = trainer(MBUQuantize(**PHASED), saving, stopping, epochs=8, enable_checkpointing=True)
    run.fit(tiny)
    assert sorted(path.stem for path in tmp_path.glob("*.ckpt")) == ["epoch=4", "epoch=5"]
    assert run.current_epoch == 6
    with pytest.raises(MisconfigurationException, match="follows the phases of MBUQuantize"):
        trainer(FinalPhaseStopping("val_loss"), epochs=1).fit(tiny)


@pytest.mark.parametrize("options", [
    {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
    {"precision": "bf16-mixed"}, {"precision": "64-true"}, {"fast_dev_run": True}, {"max_steps": 3, "max_epochs": -1},
    {"num_sanity_val_steps": 2}, {"overfit_batches": 1}, {"limit_train_batches": 2}, {"val_check_interval": 2},
], ids=lambda options: ",".join(options) + "=" + ",".join(map(str, options.values())))  # fmt: skip
def test_trainer_options(tiny, trainer, options):
    before = {name: p.clone() for name, p in tiny.model.named_parameters()}
    if options.get("precision") == "64-true":
        tiny.double()
    run = trainer(MBUQuantize(**PHASED), **{"epochs": 2, **options})
    run.fit(tiny)
    assert all_quantized(tiny.model) or run.fast_dev_run
    after = dict(tiny.model.named_parameters())
    assert all(not torch.equal(value, after[name].float()) for name, value in before.items())
    assert all(torch.isfinite(p).all() for p in after.values())


@pytest.mark.parametrize("limit", ["trainer", "callback"])
def test_a_run_limited_by_time(tiny, trainer, limit):
    seconds = {"seconds": 3}
    timer = [Timer(seconds)] if limit == "callback" else []
    quantizer = MBUQuantize(float_share=0.2)
    options = {"max_time": seconds} if limit == "trainer" else {}
    trainer(quantizer, *timer, epochs=-1, **options).fit(tiny)
    assert quantizer.phase == "quantized" and all_quantized(tiny.model)


def test_several_optimizers_each_see_the_regularizer_once(tiny, trainer):
    class Two(type(tiny)):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            before = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.dim() == 4}
            for optimizer in self.optimizers():
                optimizer.step()
            layers = dict(quantized_layers(self.model))
            for name, grad in before.items():
                pull = dict(self.model.named_parameters())[name].grad - grad
                expected = 0.1 if name.removesuffix(".weight") in layers else 0.0
                assert torch.allclose(pull.abs(), torch.full_like(pull, expected), atol=1e-4)

        def configure_optimizers(self):
            weights = [p for p in self.parameters() if p.dim() == 4]
            others = [p for p in self.parameters() if p.dim() != 4]
            return [torch.optim.SGD(weights, lr=1e-3), torch.optim.SGD(others, lr=1e-2)], []

    module = Two()
    trainer(MBUQuantize("plain", regularizer=0.1), max_steps=4, epochs=-1, limit_val_batches=0).fit(module)
    assert all_quantized(module.model)


def rates_of(module, trainer, **options):
    rates = []

    class Rates(L.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"] / 5e-3)

    trainer(MBUQuantize(float_share=0.5, **options), Rates(), epochs=2).fit(module)
    return rates


def test_learning_rate_restarts_at_each_switch(tiny, trainer):
    class Without(type(tiny)):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    class Chosen(Without):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return {"optimizer": optimizer, "lr_scheduler": phase_schedule(optimizer, self.trainer)}

    expected = [1.0, 0.8536, 0.5, 0.1464] * 2
    assert rates_of(Without(), trainer) == pytest.approx(expected, abs=1e-3)
    assert rates_of(Chosen(), trainer) == pytest.approx(expected, abs=1e-3)
    assert rates_of(Without(), trainer, restarts=False) == [1.0] * 8
    own = rates_of(tiny, trainer)
    assert own[:4] == [1.0] * 4 and own[4] == pytest.approx(0.9619, abs=1e-3), (
        "the module's own schedule stays"
    )


@pytest.mark.parametrize("how", ["network", "module"])
def test_compiled_training_is_one_graph_over_all_phases(trainer, how, tiny):
    graphs = []

    def counting(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    module = tiny
    if how == "network":
        module.model = torch.compile(module.model, backend=counting, fullgraph=True)
    else:
        module = torch.compile(module, backend=counting)
    trainer(MBUQuantize(**PHASED), epochs=4, limit_val_batches=0).fit(module)
    assert len(graphs) == 1
    assert all_quantized(tiny.model)
    images = torch.randn(1, 3, 16, 16)
    assert torch.isfinite(convert(tiny.model, images)(images)).all()
    torch.compiler.reset()


def test_a_float_trained_network_is_the_start(tiny, trainer):
    trained = SmallUNet()
    tiny.model.load_state_dict(trained.state_dict())
    trainer(MBUQuantize("plain"), max_steps=0, epochs=-1).fit(tiny)
    for name, value in trained.state_dict().items():
        assert torch.equal(tiny.model.state_dict()[name], value)
    assert isinstance(tiny.model, nn.Module) and all_quantized(tiny.model)
