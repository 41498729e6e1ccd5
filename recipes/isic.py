"""ISIC 2018 task 1, skin lesions: train a masked-binary U-Net, pack it, prove it, score it, save it.

    python recipes/isic.py --data.root folder
    python recipes/isic.py --data.root folder --preset mbunet   # the settings of the paper's Table A.1
    python recipes/isic.py --smoke                               # a minute on generated scenes
    python recipes/isic.py --help                                # every setting; --print_config writes them to a file

Download the six archives of task 1 from challenge.isic-archive.com/data (2018) and extract them into one folder:
ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg, ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png,
and the same with Validation and Test: 2,594, 100 and 1,000 images, the splits used here. The paper counts 3,693 images
and names no split. Its size, 640x480 pixels, is that of both settings.
"""

from lightning_mbu.scenes import run_recipe

DEFAULTS = {
    "model.model": {
        "class_path": "lightning_mbu.models.MBUNet",
        "init_args": {"classes": 2, "width": 32, "shortcuts": True},
    },
    "model.lr": 3e-3,
    "quantize.preset": "default",
    "data.root": "isic",
    "data.size": [480, 640],
    "data.batch_size": 8,
    "data.turns": True,
    "trainer.max_epochs": 30,
}

if __name__ == "__main__":
    run_recipe("isic", DEFAULTS, presets={"mbunet": {}})
