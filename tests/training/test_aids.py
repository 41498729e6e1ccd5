"""Ingredients that run beside training: distillation, averages, batch norms, clipping, optimizer groups."""

import copy

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from lightning_mbu import MBUQuantize, make_plan, prepare
from lightning_mbu.averaging import LatentAverage, reestimate_batch_norm
from lightning_mbu.distillation import Distillation, attention_distance, logit_distance
from lightning_mbu.models import MBUNet
from lightning_mbu.models.unet import DoubleConv, Stem
from lightning_mbu.prepare import quantized_layers


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = Stem(3, 8, False), DoubleConv(8, 8, False), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        return self.head(torch.relu(self.block(self.stem(x))))


@pytest.fixture
def small(tiny):
    return lambda: type(tiny)(Small(), size=16)


@pytest.mark.parametrize("classes", [1, 3])
def test_distillation_adds_the_gradient_of_its_distance(classes):
    student = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, classes, 1))
    twin, x = copy.deepcopy(student), torch.randn(2, 3, 8, 8)
    distillation = Distillation(student, 0.5, 2.0, ("1",))
    distillation.teacher[0].weight.mul_(1.5)
    distillation.active = True
    distillation.factor = 4.0
    student(x).square().mean().backward()
    with torch.no_grad():
        middle = distillation.teacher[:2](x)
        taught = distillation.teacher[2](middle)
    seen = twin[:2](x)
    output = twin[2](seen)
    distance = logit_distance(output, taught, 2.0) + attention_distance(seen, middle)
    (output.square().mean() + 4.0 * 0.5 * distance).backward()
    for found, expected in zip(student.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(found.grad, expected.grad, atol=1e-6)
    before = student(x).sum()
    distillation.remove()
    assert torch.equal(student(x).sum(), before)


def test_distances_by_hand():
    s, t = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    soft = -(torch.softmax(t / 2, 1) * torch.log_softmax(s / 2, 1)).sum(1).mean() * 4
    assert torch.allclose(logit_distance(s, t, 2.0), soft)
    maps = [(x**2).mean(1).flatten(1) for x in (s, t)]
    maps = [m / m.norm(dim=1, keepdim=True) for m in maps]
    assert torch.allclose(attention_distance(s, t), ((maps[0] - maps[1]) ** 2).sum(1).mean())


class TeacherLog(Callback):
    """The float network before the first switch, and the gradient at the output with and without a teacher."""

    def __init__(self, switch):
        self.switch, self.floating = switch, None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.switch:
            self.floating = copy.deepcopy(pl_module.model.state_dict())


def test_teacher_is_the_network_at_the_end_of_its_float_phase(small, trainer):
    quantizer, log = MBUQuantize(float_share=0.5, distill=1.0, order="all"), None
    module, log = small(), TeacherLog(8)
    trainer(log, quantizer).fit(module)
    teacher = quantizer._aids.distillation.teacher
    assert all(torch.equal(teacher.state_dict()[name], value) for name, value in log.floating.items())
    assert all(float(layer.gate) == 0 for _, layer in quantized_layers(teacher)) and not teacher.training
    assert not any("teacher" in name for name in module.state_dict())


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path")
def test_resume_with_every_aid_equals_an_uninterrupted_run(small, trainer, tmp_path, one_thread):
    def start():
        L.seed_everything(3, verbose=False)
        return small(), MBUQuantize(
            float_share=0.3, distill=1.0, average_from=0.6, clip=0.5, reestimate=2, estimator="annealed", planes=2,
            weights_after=0.2,
        )  # fmt: skip

    module, quantizer = start()
    trainer(quantizer).fit(module)
    expected = module.state_dict()
    assert quantizer._aids.average.count == 6
    assert all(layer.weight.abs().max() <= 0.5 for _, layer in quantized_layers(module.model))

    for crash_at in (8, 12):  # distilling; averaging
        module, quantizer = start()
        checkpoints = ModelCheckpoint(
            tmp_path / str(crash_at), every_n_train_steps=crash_at, save_top_k=-1, filename="{step}"
        )
        trainer(quantizer, checkpoints, enable_checkpointing=True, epochs=4).fit(module)
        module, quantizer = start()
        path = tmp_path / str(crash_at) / f"step={crash_at}.ckpt"
        trainer(quantizer).fit(module, ckpt_path=path, weights_only=True)
        found = module.state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_distillation_without_a_teacher_and_from_a_file(small, trainer, tmp_path):
    with pytest.raises(ValueError, match="has no teacher"):
        MBUQuantize("plain", distill=1.0)
    module = small()
    run = trainer(max_steps=1)
    run.fit(module)
    run.save_checkpoint(tmp_path / "float.ckpt")
    quantizer, student = MBUQuantize(distill=1.0, teacher=str(tmp_path / "float.ckpt")), small()
    trainer(quantizer, max_steps=1).fit(student)
    teacher = quantizer._aids.distillation.teacher
    assert torch.equal(teacher.head.weight, module.model.head.weight)
    torch.save({"head.weight": module.model.head.weight}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match="the teacher lacks"):
        trainer(MBUQuantize(distill=1.0, teacher=str(tmp_path / "part.pt")), max_steps=1).fit(small())


def test_average_is_the_mean_of_what_it_saw():
    network, average, seen = nn.Linear(3, 2), LatentAverage(), []
    for _ in range(4):
        nn.init.normal_(network.weight)
        seen.append(network.weight.detach().clone())
        average.update(network)
    again = LatentAverage()
    again.load_state_dict(average.state_dict())
    again.apply(network)
    assert torch.allclose(network.weight, torch.stack(seen).mean(0))


def test_batch_norms_are_measured_over_the_batches():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    inputs = [torch.randn(8, 3, 4, 4) + 3 for _ in range(3)]
    reestimate_batch_norm(network, inputs)
    outputs = [network[0](x) for x in inputs]
    mean = torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0)
    variance = torch.stack([y.var((0, 2, 3)) for y in outputs]).mean(0)
    assert torch.allclose(network[1].running_mean, mean, atol=1e-5)
    assert torch.allclose(network[1].running_var, variance, atol=1e-5)
    assert network.training and network[2].training and network[1].momentum == 0.1


def test_batch_norms_are_measured_before_the_last_validation(small, trainer):
    seen = []

    class Watch(Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.append(pl_module.model.block.norm2.running_var.clone())

    module = small()
    trainer(Watch(), MBUQuantize(reestimate=4), num_sanity_val_steps=2).fit(module)
    assert torch.equal(seen[-1], module.model.block.norm2.running_var)
    assert int(module.model.block.norm2.num_batches_tracked) == 4


def test_parameter_groups(small, trainer):
    module = small()
    trainer(MBUQuantize(planes=2, mask_rule="learned"), max_steps=1).fit(module)
    groups = {
        g["name"]: g
        for g in MBUQuantize.parameter_groups(module.model, 1e-3, weight_decay=0.1, extras_lr=0.5)
    }
    assert {name: g["weight_decay"] for name, g in groups.items()} == {
        "latent": 0, "extras": 0, "float": 0.1, "float, no decay": 0,
    }  # fmt: skip
    assert groups["extras"]["lr"] == 5e-4 and len(groups["latent"]["params"]) == 6
    everything = [id(p) for g in groups.values() for p in g["params"]]
    assert sorted(everything) == sorted(id(p) for p in module.model.parameters())


def test_recommended_rates():
    model = MBUNet(width=8, shortcuts=True)
    (weights, rest) = MBUQuantize.parameter_groups(model, float_lr=0.1, extras_lr=0.1)
    assert (weights["lr"], rest["lr"]) == (3e-3, 3e-3), "a float network is all there is to train"
    prepare(model, make_plan(model, torch.empty(1, 3, 32, 32)))
    groups = {g["name"]: g for g in MBUQuantize.parameter_groups(model)}
    assert {(g["lr"], g["weight_decay"]) for g in groups.values()} == {(3e-3, 0.0)}
    slower = {
        g["name"]: g["lr"] for g in MBUQuantize.parameter_groups(model, 1e-2, float_lr=0.5, extras_lr=0.1)
    }
    assert slower == {"latent": 1e-2, "extras": 1e-3, "float": 5e-3, "float, no decay": 5e-3}
    for wrong in ({"lr": 0.0}, {"float_lr": -1.0}, {"extras_lr": 0.0}, {"weight_decay": -1e-2}):
        with pytest.raises(ValueError, match="must be above 0, weight_decay="):
            MBUQuantize.parameter_groups(model, **wrong)


def test_unknown_ingredient_and_values_out_of_range():
    with pytest.raises(TypeError, match="sauce"):
        MBUQuantize(sauce=1)
    for options, words in (
        ({"planes": 0}, "planes=0"),
        ({"average_from": 1.0}, "average_from=1.0"),
        ({"clip": -1.0}, "clip=-1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            MBUQuantize(**options)


def test_ingredients_are_options_of_a_lightning_cli():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(MBUQuantize, "quantizer")
    found = parser.parse_args(
        ["--quantizer.planes=2", "--quantizer.mask_blocks=[16, 16]", "--quantizer.scale=none"]
    )
    quantizer = MBUQuantize(**vars(found.quantizer))
    assert (quantizer.recipe.planes, quantizer.recipe.mask_blocks, quantizer.scale) == (2, (16, 16), "none")
