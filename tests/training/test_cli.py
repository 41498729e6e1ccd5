"""LightningCLI: the callback from a YAML file, all of its arguments plain."""

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch import nn

from lightning_mbu.prepare import quantized_layers

CONFIG = """
seed_everything: 1
trainer:
  accelerator: cpu
  max_epochs: 4
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  callbacks:
    - class_path: lightning_mbu.MBUQuantize
      init_args:
        preset: bisegunet
        input_size: [16, 16]
        masked: 0.5
        order: cost
        exclude: [model.4]
    - class_path: lightning_mbu.FinalPhaseStopping
      init_args: {monitor: loss, patience: 100}
model:
  channels: 8
"""


class Module(L.LightningModule):
    def __init__(self, channels: int = 4):
        super().__init__()
        layers = [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(3)]
        self.model = nn.Sequential(nn.Conv2d(3, channels, 3), *layers, nn.Conv2d(channels, 1, 1))

    def training_step(self, batch, batch_idx):
        loss = self.model(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.randn(4, 3, 16, 16)), batch_size=2
        )


pytestmark = [
    # on purpose: not pytest's own
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter:UserWarning"),
    pytest.mark.filterwarnings("ignore:only .* become one-bit:UserWarning"),
]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Lightning 2.6 calls what jsonargparse 4.53 deprecates."""
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


@pytest.mark.parametrize("wrong", [False, True])
def test_a_run_from_yaml(tmp_path, wrong, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("exclude: [model.4]", "exclude: 4" if wrong else "exclude: ['2']"))
    arguments = ["fit", "--config", str(path), f"--trainer.default_root_dir={tmp_path}"]
    if wrong:
        with pytest.raises(SystemExit):
            LightningCLI(Module, Data, args=arguments, save_config_callback=None)
        assert "exclude" in capsys.readouterr().err
        return
    cli = LightningCLI(Module, Data, args=arguments, save_config_callback=None)
    assert [name for name, _ in quantized_layers(cli.model.model)] == ["1", "3"]
    assert all(float(layer.gate) == 1 for _, layer in quantized_layers(cli.model.model))


def test_a_float_network_from_yaml(tmp_path):
    trained = Module(8)
    torch.save(trained.state_dict(), tmp_path / "float.pt")
    path = tmp_path / "config.yaml"
    lines = f"exclude: ['2']\n        init_from: {tmp_path / 'float.pt'}"
    path.write_text(CONFIG.replace("exclude: [model.4]", lines))
    arguments = [
        "fit",
        "--config",
        str(path),
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.max_steps=0",
    ]
    cli = LightningCLI(Module, Data, args=arguments, save_config_callback=None)
    found = cli.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in trained.state_dict().items())
    for name, layer in quantized_layers(cli.model.model):
        assert torch.equal(layer.scale, layer._fitted_scale()), name
