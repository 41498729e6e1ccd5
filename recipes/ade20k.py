"""ADE20K scene parsing, 150 classes: train a one-bit BiSegUNet, pack it, prove it, score it, save it.

    python recipes/ade20k.py --data.root folder
    python recipes/ade20k.py --smoke              # a minute on generated scenes
    python recipes/ade20k.py --help               # every setting; --print_config writes them to a file

Download ADEChallengeData2016.zip (923 MB, sceneparsing.csail.mit.edu) and extract it: the folder then holds
ADEChallengeData2016/images/training and so on, 20,210 training and 2,000 validation images. Stored values 1 to 150 are
the classes (objectInfo150.txt names them); 0, everything else, is left out. Scores are those of validation.
"""

from lightning_mbu.scenes import run_recipe

DEFAULTS = {
    "model.model": {
        "class_path": "lightning_mbu.models.BiSegUNet",
        "init_args": {"classes": 150, "width": 48},
    },
    "quantize.min_channels": 4,  # of a group: those of the first block's grouped branches have few
    "data.root": "ADE20K",
    "data.size": [512, 512],
    "data.batch_size": 16,
    "trainer.max_epochs": 180,
}

if __name__ == "__main__":
    run_recipe("ade20k", DEFAULTS)
