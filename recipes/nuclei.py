"""Cell nuclei of the 2018 Data Science Bowl: train a masked-binary U-Net, pack it, prove it, save it.

    python recipes/nuclei.py --data folder            # with stage1_train/ inside, as downloaded
    python recipes/nuclei.py --smoke                  # a minute on generated cells

One callback is what this differs in from training the same U-Net in float.
"""

import argparse

import lightning as L
import torch
from rich import print

from lightning_mbu import MBUQuantize, convert, save, verify
from lightning_mbu.demo import CellsData, LitSegmenter
from lightning_mbu.models import MBUNet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", help="folder of the data set; generated cells without it")
    parser.add_argument("--preset", default="default", help="default, mbunet or bisegunet")
    parser.add_argument("--shortcuts", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--output", default="nuclei.mbu")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, one epoch")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.width, options.size, options.epochs = 8, 32, 1

    L.seed_everything(0)
    data = CellsData(options.data, size=options.size, count=20 if options.smoke else 240)
    module = LitSegmenter(MBUNet(width=options.width, shortcuts=options.shortcuts), lr=options.lr)
    trainer = L.Trainer(
        max_epochs=options.epochs,
        logger=False,
        enable_checkpointing=False,
        callbacks=[MBUQuantize(options.preset)],
    )
    trainer.fit(module, data)
    print(trainer.validate(module, data, verbose=False)[0])

    images = torch.cat([batch for batch, _ in data.test_dataloader()])
    packed = convert(module.model, images[:1])
    check = verify(module.model, packed, images)
    print(check)
    if not check.ok:
        raise SystemExit("the packed network differs from the trained one; it was not saved")
    print(f"saved {save(packed, options.output)}")


if __name__ == "__main__":
    main()
