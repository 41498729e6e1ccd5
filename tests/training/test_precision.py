"""Mixed precision: latent weights stay float32, and what was trained so converts as exactly as ever."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from lightning_mbu import MBUQuantize, convert, verify
from lightning_mbu.models.unet import DoubleConv
from lightning_mbu.prepare import quantized_layers

PHASED = {"float_share": 0.25, "incremental_share": 0.25}


@pytest.fixture
def tiny(tiny):
    tiny.model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), DoubleConv(16, 16, True), nn.Conv2d(16, 1, 1))
    return tiny


def check(module):
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert all(
        float(layer.gate) == 1 and layer.gate.dtype == torch.float32 for _, layer in quantized_layers(module)
    )
    assert all(torch.isfinite(p).all() for p in module.parameters())
    module.eval()
    images = torch.randn(2, 3, 32, 32)
    packed = convert(module.model, images)
    found = verify(module.model, packed, images)
    assert found.mismatches == 0 and found.at_rounding == 0, str(found)


class Autocast(Callback):
    """What convolutions compute in while a quantized layer runs."""

    def __init__(self):
        self.seen = []

    def on_train_start(self, trainer, pl_module):
        layer = next(layer for _, layer in quantized_layers(pl_module))
        layer.register_forward_hook(self.look)

    def look(self, module, args, output):
        if module.training:
            enabled = torch.is_autocast_enabled("cpu")
            self.seen.append(torch.get_autocast_dtype("cpu") if enabled else None)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.filterwarnings("ignore:You passed `Trainer.accelerator='cpu', precision='16-mixed'")
def test_precision_of_the_trainer(tiny, trainer, precision):
    """Lightning has no float16 on a processor and takes bfloat16, with a warning."""
    autocast = Autocast()
    run = trainer(MBUQuantize(**PHASED), autocast, precision=precision, limit_val_batches=0)
    run.fit(tiny)
    assert run.precision == "bf16-mixed"
    assert autocast.seen == [torch.bfloat16] * 16
    check(tiny)


def test_float16_with_a_scaler(tiny, trainer):
    """The plugin of a GPU, on the CPU: the regularizer joins the gradients after they have been unscaled."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    pulls, seen = [], {}

    class Before(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen.update({name: layer.weight.grad.clone() for name, layer in quantized_layers(pl_module)})

    class After(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            for name, layer in quantized_layers(pl_module):
                pulls.append((float(layer.gate), (layer.weight.grad - seen[name]).abs()))

    autocast = Autocast()
    run = trainer(Before(), MBUQuantize(regularizer=0.25, **PHASED), After(), autocast, plugins=[plugin],
                  limit_val_batches=0)  # fmt: skip
    run.fit(tiny)
    assert autocast.seen == [torch.float16] * 16
    assert {gate for gate, _ in pulls} == {0.0, 1.0}
    for gate, pull in pulls:
        assert torch.allclose(pull, torch.full_like(pull, 0.25 * gate), atol=1e-4)
    check(tiny)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_network_of_other_floats_is_packed_after_float(tiny, trainer, precision):
    trainer(MBUQuantize(**PHASED), precision=precision, limit_val_batches=0).fit(tiny)
    assert {p.dtype for p in tiny.parameters()} == {torch.bfloat16 if "bf16" in precision else torch.float64}
    with pytest.raises(ValueError, match=r"convert\(model.float\(\)"):
        convert(tiny.model, torch.randn(1, 3, 32, 32))
    check(tiny.float())
