import lightning as L
import pytest
import torch
from torch import nn

from lightning_mbu.models import MBUNet


class TinyModule(L.LightningModule):
    """A LightningModule that segments bright spots; deterministic data of its own."""

    def __init__(self, model: nn.Module | None = None, lr: float = 5e-3, size: int = 32):
        super().__init__()
        self.model = model or MBUNet(width=8)
        self.lr, self.size = lr, size

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(self(x), y)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)]

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(8, 3, self.size, self.size, generator=generator)
        y = (nn.functional.avg_pool2d(x.mean(1, keepdim=True), 5, 1, 2) > 0).float()
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=2)

    val_dataloader = train_dataloader


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return TinyModule()


@pytest.fixture
def trainer(tmp_path):
    def make(*callbacks, epochs=4, **options):
        settings = {
            "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
            "enable_checkpointing": False, "default_root_dir": tmp_path, "max_epochs": epochs,
        }  # fmt: skip
        return L.Trainer(callbacks=list(callbacks), **{**settings, **options})

    return make
