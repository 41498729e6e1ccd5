"""Your own images and masks: train a masked-binary U-Net, pack it, prove it, score it, save it.

    python recipes/bring_your_own.py --data.root folder                # masks of 0 and anything else
    python recipes/bring_your_own.py --data.root folder --classes 5    # masks of class numbers 0 to 4, 255 = none
    python recipes/bring_your_own.py --smoke                           # a minute on generated scenes
    python recipes/bring_your_own.py --help                            # every setting; --print_config writes them down

`folder` holds `images/` and `masks/`, files of the same names (endings may differ). `train.txt`, `val.txt` and `test.txt`
beside them list the names of each split, without endings. Else every seventh image is for validation and every seventh
for the test; give lists where neighbours look alike, as frames of a video do.

Afterwards: mbu predict folder.mbu photos/ --size 256 -o masks
"""

import argparse

from lightning_mbu.scenes import run_recipe


def defaults(classes: int) -> dict:
    return {
        "model.model": {
            "class_path": "lightning_mbu.models.MBUNet",
            "init_args": {"classes": classes, "width": 32, "shortcuts": True},
        },
        "model.lr": 3e-3,
        "quantize.preset": "default",
        "data.root": "folder",
        "data.size": [256, 256],
        "data.batch_size": 8,
        "trainer.max_epochs": 60,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, usage=argparse.SUPPRESS)
    parser.add_argument("--classes", type=int, default=2, help="in the masks; 2: 0 and anything else")
    options, rest = parser.parse_known_args()
    if {"-h", "--help"} & set(rest):
        parser.print_help()
    dataset = "folder" if options.classes == 2 else f"folder:{options.classes}"
    run_recipe(dataset, defaults(options.classes), rest)
