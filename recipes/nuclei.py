"""Cell nuclei of the 2018 Data Science Bowl: train a masked-binary U-Net, pack it, prove it, score it, save it.

    python recipes/nuclei.py --data.root folder
    python recipes/nuclei.py --data.root folder --preset mbunet   # the settings and the size of the paper's appendix A.3
    python recipes/nuclei.py --smoke                               # a minute on generated scenes
    python recipes/nuclei.py --help                                # every setting; --print_config writes them to a file

Accept the rules of kaggle.com/competitions/data-science-bowl-2018, download stage1_train.zip (83 MB) and extract it into
a folder stage1_train: stage1_train/<id>/images/<id>.png and one mask per nucleus in stage1_train/<id>/masks, 670 images.
train.txt, val.txt and test.txt beside it split them, or else a hash of the names, 70/15/15; the paper names no split.
"""

from lightning_mbu.scenes import run_recipe

DEFAULTS = {
    "model.model": {
        "class_path": "lightning_mbu.models.MBUNet",
        "init_args": {"classes": 2, "width": 16, "shortcuts": True},
    },
    "model.lr": 3e-3,
    "quantize.preset": "default",
    "data.root": "nuclei",
    "data.size": [128, 128],
    "data.batch_size": 8,
    "data.turns": True,
    "trainer.max_epochs": 24,
}

if __name__ == "__main__":
    run_recipe("nuclei", DEFAULTS, presets={"mbunet": {"data.size": [512, 512]}})
