"""Your own images and masks: train a masked-binary U-Net, pack it, prove it, save it.

    python recipes/bring_your_own.py --data folder                # two classes: masks of 0 and anything else
    python recipes/bring_your_own.py --data folder --classes 5    # masks of class numbers 0 to 4, 255 = ignore
    python recipes/bring_your_own.py --smoke                      # seconds on generated images
    mbu predict own.mbu photos/ -o masks                          # afterwards

`folder` holds `images/` and `masks/`, files of the same names (endings may differ). A fifth of them is for validation.
"""

import argparse
import tempfile
from pathlib import Path

import lightning as L
import numpy as np
import torch
from PIL import Image
from rich import print, print_json
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassJaccardIndex

from lightning_mbu import MBUQuantize, convert, save, verify
from lightning_mbu.demo import CellsData
from lightning_mbu.models import MBUNet, Standardised

IGNORE = 255  # in a mask: no class
NUMBERS = {"size": 256, "width": 32, "epochs": 60, "batch-size": 8, "workers": 2, "lr": 3e-3}


class Folder(Dataset):
    """Images float32 `[3, size, size]`, 0 to 255, and class numbers int64 `[size, size]`; mirrored at random."""

    def __init__(self, pairs: list[tuple[Path, Path]], size: int, classes: int, mirror: bool):
        self.pairs, self.size, self.classes, self.mirror = pairs, (size, size), classes, mirror

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = (Image.open(path) for path in self.pairs[index])
        if image.size != mask.size:
            raise ValueError(f"{self.pairs[index]}: {image.size} and {mask.size} pixels must be equal.")
        pixels = np.asarray(image.convert("RGB").resize(self.size, Image.Resampling.BILINEAR), np.float32)
        # Class numbers are no brightness: an indexed PNG is read as it is, and neighbours are not mixed.
        mask = mask if mask.mode in ("P", "L") else mask.convert("L")
        labels = np.asarray(mask.resize(self.size, Image.Resampling.NEAREST), np.int64)
        labels = (labels > 0).astype(np.int64) if self.classes == 2 else labels
        if labels[labels != IGNORE].max(initial=0) >= self.classes:
            raise ValueError(f"{self.pairs[index][1]} has class {labels.max()}; --classes is {self.classes}.")
        x, y = torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.from_numpy(labels)
        return (x.flip(-1), y.flip(-1)) if self.mirror and torch.rand(()) < 0.5 else (x, y)


class Segmenter(L.LightningModule):
    def __init__(self, model: torch.nn.Module, classes: int, lr: float):
        super().__init__()
        self.model, self.lr = model, lr
        self.iou = MulticlassJaccardIndex(classes, ignore_index=IGNORE)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1], ignore_index=IGNORE)

    def validation_step(self, batch, batch_idx):
        self.iou(self.model(batch[0]), batch[1])
        self.log("val/iou", self.iou, prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)]


def generate(folder: Path) -> Path:
    cells = CellsData(size=64, count=20).splits["train"]
    for name, arrays in {"images": cells.images, "masks": cells.masks.astype(np.uint8) * 255}.items():
        (folder / name).mkdir()
        for k, array in enumerate(arrays):
            Image.fromarray(array).save(folder / name / f"{k}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with images/ and masks/")
    parser.add_argument("--classes", type=int, default=2, help="with the background")
    for name, value in NUMBERS.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--output", default="own.mbu")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, generated images")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    if options.smoke:
        temporary = tempfile.TemporaryDirectory()
        vars(options).update(data=generate(Path(temporary.name)), epochs=2, workers=0, size=32, width=8)
    L.seed_everything(0)
    masks = {path.stem: path for path in options.data.glob("masks/*")}
    pairs = [(x, masks[x.stem]) for x in sorted(options.data.glob("images/*")) if x.stem in masks]
    if len(pairs) < 5:
        raise SystemExit(f"{options.data} has {len(pairs)} images with a mask of their name; 5 are needed.")
    val = Folder(pairs[::5], options.size, options.classes, mirror=False)
    train = Folder([x for k, x in enumerate(pairs) if k % 5], options.size, options.classes, mirror=True)
    batches = {"batch_size": options.batch_size, "num_workers": options.workers}
    # Standardisation inside: the packed file takes pixels as they are, and nobody has to repeat it.
    network = Standardised(MBUNet(classes=options.classes, width=options.width, shortcuts=True))
    module = Segmenter(network, options.classes, options.lr)
    quiet = dict.fromkeys(["logger", "enable_checkpointing"], False)
    shown = dict.fromkeys(["enable_progress_bar", "enable_model_summary"], not options.json)
    trainer = L.Trainer(max_epochs=options.epochs, callbacks=[MBUQuantize()], **quiet, **shown)
    trainer.fit(module, DataLoader(train, shuffle=True, **batches), DataLoader(val, **batches))
    images = next(iter(DataLoader(val, batch_size=4)))[0]
    packed = convert(module.model.cpu().eval(), images[:1])
    check = verify(module.model, packed, images)
    if not check.ok:
        raise SystemExit(f"{check}\nthe packed network differs from the trained one; it was not saved")
    found = {"file": str(save(packed, options.output)), "iou": float(trainer.callback_metrics["val/iou"])}
    print_json(data=found | check.to_dict()) if options.json else print(check, found)


if __name__ == "__main__":
    main()
