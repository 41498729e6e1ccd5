"""An existing smp + Lightning project: what to add to it for a one-bit network. Nothing is removed.

    python recipes/existing_project.py --data folder     # nuclei, as for recipes/nuclei.py
    python recipes/existing_project.py --smoke           # seconds on generated cells

Everything below is a project as it is usually written, but for the lines marked `# added`. Without them
it trains the float network.
"""

import argparse
import json
import sys

import lightning as L
import segmentation_models_pytorch as smp
import torch

from lightning_mbu import MBUQuantize, convert, save, verify  # added
from lightning_mbu.demo import CellsData  # in the place of your own data module


class SegmentationModule(L.LightningModule):
    def __init__(self, encoder: str, weights: str | None, lr: float):
        super().__init__()
        self.save_hyperparameters()
        self.model = smp.Unet(encoder, encoder_weights=weights, in_channels=3, classes=1)
        self.loss = smp.losses.DiceLoss(smp.losses.BINARY_MODE)

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        images, masks = batch
        loss = self.loss(self(images), masks)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        images, masks = batch
        found = self(images) > 0
        counts = smp.metrics.get_stats(found.long(), masks.long(), mode="binary")
        self.log("val/iou", smp.metrics.iou_score(*counts, reduction="micro"), prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", help="folder of nuclei; generated cells without it")
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--weights", default="imagenet", help="of the encoder")
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--output", default="project.mbu")
    parser.add_argument(
        "--smoke", action="store_true", help="smallest sizes, two epochs, nothing to download"
    )
    parser.add_argument("--json", action="store_true", help="print the check as JSON")
    options = parser.parse_args()
    if options.smoke:
        options.encoder, options.weights, options.size, options.epochs = "resnet18", None, 64, 2

    L.seed_everything(0)
    data = CellsData(options.data, size=options.size, count=20 if options.smoke else 240)
    module = SegmentationModule(options.encoder, options.weights, options.lr)
    trainer = L.Trainer(
        max_epochs=options.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=not options.json,
        enable_model_summary=not options.json,
        callbacks=[MBUQuantize()],  # added
    )
    trainer.fit(module, data)

    images = next(iter(data.val_dataloader()))[0]
    packed = convert(module.model.cpu().eval(), images[:1])  # added
    check = verify(module.model, packed, images)  # added
    print(json.dumps(check.to_dict()) if options.json else check)  # added
    if not check.ok:  # added
        raise SystemExit("the packed network differs from the trained one; it was not saved")  # added
    print("saved", save(packed, options.output), file=sys.stderr)  # added


if __name__ == "__main__":
    main()
