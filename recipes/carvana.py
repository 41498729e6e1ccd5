"""Carvana, cars before their background: train a masked-binary U-Net, pack it, prove it, score it, save it.

    python recipes/carvana.py --data.root folder
    python recipes/carvana.py --data.root folder --preset mbunet   # the settings of the paper's Table A.1
    python recipes/carvana.py --smoke                               # a minute on generated scenes
    python recipes/carvana.py --help                                # every setting; --print_config writes them to a file

Accept the rules of kaggle.com/competitions/carvana-image-masking-challenge, download train.zip (405 MB) and
train_masks.zip (16 MB) and extract both into one folder: train/00087a6bd4dc_01.jpg, train_masks/00087a6bd4dc_01_mask.gif
and so on, 5,088 images of 318 cars. The labels of its test images are not published and the paper names no split: a hash
of the car's name holds out 15 % of the cars for validation and 15 % for the test. The paper scales to 959x640 pixels; a
U-Net of four levels takes multiples of 16, so this is 960x640.
"""

from lightning_mbu.scenes import run_recipe

DEFAULTS = {
    "model.model": {
        "class_path": "lightning_mbu.models.MBUNet",
        "init_args": {"classes": 2, "width": 32, "shortcuts": True},
    },
    "model.lr": 3e-3,
    "quantize.preset": "default",
    "data.root": "carvana",
    "data.size": [640, 960],
    "data.batch_size": 8,
    "trainer.max_epochs": 30,
}

if __name__ == "__main__":
    run_recipe("carvana", DEFAULTS, presets={"mbunet": {}})
