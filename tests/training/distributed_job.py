"""A small training job that test_distributed.py starts in several processes; each writes what it ended with."""

import sys

import lightning as L
import torch
from torch import nn

from lightning_mbu import MBUQuantize


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        convolutions = [nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2)]
        self.model = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            convolutions[0],
            nn.BatchNorm2d(8),
            nn.ReLU(),
            convolutions[1],
            nn.Conv2d(8, 1, 1),
        )
        self.example_input_array = torch.zeros(1, 3, 16, 16)

    def training_step(self, batch, batch_idx):
        return self.model(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def train_dataloader(self):
        images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=2)


if __name__ == "__main__":
    folder, nodes, devices = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.manual_seed(0)
    module = Module()
    quantizer = MBUQuantize(float_share=0.25, incremental_share=0.5)
    trainer = L.Trainer(
        accelerator="cpu", strategy="ddp", devices=devices, num_nodes=nodes, max_epochs=4, callbacks=[quantizer],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module)
    gates = [float(layer.gate) for layer in quantizer._layers.values()]
    facts = {
        "state": module.state_dict(),
        "gates": gates,
        "world": trainer.world_size,
        "steps": trainer.global_step,
    }
    torch.save(facts, f"{folder}/{trainer.global_rank}.pt")
