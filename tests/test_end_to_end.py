"""The whole way, as a user goes it: train with the callback, convert, verify, save, load, compile; and the demo."""

import json

import lightning as L
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from lightning_mbu import MBUQuantize, convert, load, save, verify
from lightning_mbu.cli import main
from lightning_mbu.demo import CellsData
from lightning_mbu.demo_settings import DemoSettings
from lightning_mbu.models import MBUNet

pytestmark = pytest.mark.filterwarnings(
    # smp's Dice loss and torchmetrics are called as their documentation says.
    "ignore::UserWarning:torchmetrics.*",
)


class LitCells(L.LightningModule):
    """What a user has before they meet this project."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        images, masks = batch
        return nn.functional.binary_cross_entropy_with_logits(self.model(images), masks)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


NETWORKS = {
    "MBUNet": lambda: MBUNet(width=8),
    "MBUNet with shortcuts": lambda: MBUNet(width=8, shortcuts=True),
    "Unet/resnet34": lambda: smp.Unet("resnet34", encoder_weights=None),
    "Unet/mobilenet_v2": lambda: smp.Unet("mobilenet_v2", encoder_weights=None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_train_convert_verify_save_load(name, tmp_path):
    L.seed_everything(0, verbose=False)
    data = CellsData(size=64, batch_size=4, count=20)
    module = LitCells(NETWORKS[name]())
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[MBUQuantize()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data.train_dataloader())
    images = torch.cat([batch for batch, _ in data.test_dataloader()])
    packed = convert(module.model, images[:1])
    result = verify(module.model, packed, images)
    assert result.mismatches == 0 and result.at_rounding == 0, str(result)
    loaded = load(save(packed, tmp_path / "net.mbu"))
    with torch.no_grad():
        assert torch.equal(loaded(images), packed(images))
        assert torch.allclose(loaded(images), module.model.eval()(images), atol=1e-4)


def test_training_on_cells_learns_to_segment():
    L.seed_everything(0, verbose=False)
    data = CellsData(size=64, batch_size=4, count=60)
    module = LitCells(MBUNet(width=8, shortcuts=True))
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=4, callbacks=[MBUQuantize()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data.train_dataloader())
    images, masks = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    found = convert(module.model, images[:1])(images) > 0
    overlap = 2 * (found & masks.bool()).sum() / (found.sum() + masks.sum())
    assert overlap > 0.5, "a constant answer reaches about 0.3"


def test_demo_at_its_smallest(tmp_path, capsys):
    output = tmp_path / "demo"
    arguments = ["--count", "20", "--size", "32", "--width", "8", "--epochs", "1", "--batch-size", "4"]
    arguments += ["--bench-size", "32", "--bench-width", "8", "--output", str(output)]
    assert main(["demo", *arguments]) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "plain.mbu",
        "report.html",
        "results.json",
        "shortcuts.mbu",
    ]
    results = json.loads((output / "results.json").read_text())
    assert all(network["mismatches"] == 0 for network in results["one_bit"].values())
    assert set(results["float"]) == {"U-Net", "U-Net of width 4", "U-Net of width 2"}
    assert len(results["latency_ms"]) == 2 * 5 and "U-Net of width 2, float compiled" in results["latency_ms"]
    page = (output / "report.html").read_text()
    assert page.count('<g class="point float">') == 6 and page.count('<g class="point one-bit">') == 4
    assert all(
        words in page for words in ("quantized", "one-bit plain chain", "data:image/png;base64", "<svg")
    )
    shown = capsys.readouterr().out
    assert "bit mismatches" in shown and (
        "float network that is as fast" in shown or "No float network" in shown
    )
    assert load(output / "plain.mbu")(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def test_interrupted_demo_writes_nothing(tmp_path, monkeypatch, capsys):
    from lightning_mbu.demo import run

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_full_width", interrupt)
    output = tmp_path / "demo"
    arguments = ["--count", "20", "--size", "32", "--width", "8", "--epochs", "1", "--bench-width", "8"]
    assert main(["demo", *arguments, "--output", str(output)]) == 130
    assert not output.exists()
    assert "Stopped." in capsys.readouterr().err


@pytest.mark.parametrize("options, words", [
    ({"size": 100}, "size=100 must be a multiple of 16"), ({"epochs": 0}, "epochs=0 must be at least 1"), ({"width": 4}, "at least 8"),
])  # fmt: skip
def test_demo_settings(options, words):
    with pytest.raises(ValueError, match=words):
        DemoSettings(**options)
