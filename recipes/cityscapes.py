"""Cityscapes, 19 classes: train the paper's BiSegUNet one-bit, pack it, prove it, score it, save it.

    python recipes/cityscapes.py --data.root cityscapes
    python recipes/cityscapes.py --smoke          # a minute on generated scenes
    python recipes/cityscapes.py --help           # every setting; --print_config writes them to a file

Register at cityscapes-dataset.com (free, not for commercial use), download leftImg8bit_trainvaltest.zip (11 GB) and
gtFine_trainvaltest.zip (241 MB) and extract both into one folder: leftImg8bit/train/aachen/..., gtFine/train/aachen/...
Labels are read from *_gtFine_labelIds.png and mapped to the 19 classes that are scored; everything else is left out.
The labels of the test split are not published: scores are those of the 500 images of val.

For the larger network of Table 3: --data.size '[1024, 2048]' and
    --model.model lightning_mbu.models.BiSegUNet --model.model.stem_stride 2 --model.model.capacity_blocks 5
    --model.model.groups 2
"""

from lightning_mbu.scenes import run_recipe

DEFAULTS = {
    "model.model": {
        "class_path": "lightning_mbu.models.BiSegUNet",
        "init_args": {"classes": 19, "width": 48},
    },
    "quantize.min_channels": 4,  # of a group: those of the first block's grouped branches have few
    "data.root": "cityscapes",
    "data.size": [512, 1024],
    "data.batch_size": 16,
    "trainer.max_epochs": 180,
}

if __name__ == "__main__":
    run_recipe("cityscapes", DEFAULTS)
