"""An existing smp + Lightning project: what to add to it for a one-bit network. Nothing is removed.

    python recipes/existing_project.py --data.data folder     # nuclei, as for recipes/nuclei.py
    python recipes/existing_project.py --smoke                # seconds on generated cells
    python recipes/existing_project.py --help                 # every setting; --config reads them from a file

Everything below is a project as it is usually written with LightningCLI, but for the lines marked `# added`. Without
them it trains the float network.
"""

import json  # added
import sys
from pathlib import Path

import lightning as L
import segmentation_models_pytorch as smp
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_mbu import MBUQuantize, convert, save, verify, write_page  # added
from lightning_mbu.demo import CellsData  # in the place of your own data module


class SegmentationModule(L.LightningModule):
    """A Unet of segmentation_models_pytorch.

    Args:
        encoder: of the Unet.
        weights: of the encoder, such as `imagenet`; null starts at random.
        lr: peak learning rate.
    """

    def __init__(self, encoder: str = "resnet34", weights: str | None = "imagenet", lr: float = 3e-3):
        super().__init__()
        self.save_hyperparameters()
        self.model = smp.Unet(encoder, encoder_weights=weights, in_channels=3, classes=1)
        self.loss = smp.losses.DiceLoss(smp.losses.BINARY_MODE)

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        images, masks = batch
        loss = self.loss(self(images), masks)
        self.log("train/loss", loss, on_epoch=True, on_step=False, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        images, masks = batch
        found = self(images) > 0
        counts = smp.metrics.get_stats(found.long(), masks.long(), mode="binary")
        self.log("val/iou", smp.metrics.iou_score(*counts, reduction="micro"), prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)]


class Command(LightningCLI):
    def add_arguments_to_parser(self, parser):
        parser.add_argument("--smoke", action="store_true", help="smallest sizes, nothing to download")
        logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "."}}
        parser.set_defaults({"trainer.logger": logger, "trainer.max_epochs": 40, "data.size": 256})
        parser.add_lightning_class_args(MBUQuantize, "quantize")  # added
        parser.add_argument("--output", default="project.mbu", help="packed file, page beside it")  # added
        parser.add_argument("--json", action="store_true", help="print the check as JSON")  # added

    def before_instantiate_classes(self):
        config, changes = self.config, {}
        if config["smoke"]:
            changes = {"model.encoder": "resnet18", "model.weights": None, "data.size": 64, "data.count": 20,
                       "trainer.max_epochs": 2, "trainer.accelerator": "cpu"}  # fmt: skip
        if config["json"]:  # added
            changes |= {"trainer.enable_progress_bar": False, "trainer.enable_model_summary": False}  # added
        output = config["output"]  # added
        if not Path(output).absolute().parent.is_dir():  # added
            raise FileNotFoundError(f"the folder of --output {output} does not exist; create it.")  # added
        for name, value in changes.items():
            config[name] = value


def main() -> None:
    cli = Command(
        SegmentationModule, CellsData, run=False, seed_everything_default=0, save_config_callback=None
    )
    cli.trainer.fit(cli.model, cli.datamodule)

    batch = next(iter(cli.datamodule.val_dataloader()))
    packed = convert(cli.model.model.cpu().eval(), batch[0][:1])  # added
    check = verify(cli.model.model, packed, batch[0])  # added
    print(json.dumps(check.to_dict()) if cli.config["json"] else check)  # added
    if not check.ok:  # added
        raise SystemExit("the packed network differs from the trained one; it was not saved")  # added
    saved = save(packed, cli.config["output"])  # added
    scores, log = cli.trainer.callback_metrics, Path(cli.trainer.log_dir or "", "metrics.csv")  # added
    log = log if log.is_file() else None  # added: curves are drawn from what CSVLogger writes
    page = write_page(saved.with_suffix(".html"), packed, check, batch=batch, scores=scores, log=log)  # added
    print(f"saved {saved}, report {page}", file=sys.stderr)  # added


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, MisconfigurationException) as error:  # a wrong setting
        sys.exit(f"{Path(__file__).name}: {error}")
