"""PASCAL VOC 2012 with the Semantic Boundaries Dataset, 21 classes: train a one-bit BiSegUNet, pack, prove, score, save.

    python recipes/voc.py --data.root folder --data.sbd folder
    python recipes/voc.py --smoke                 # a minute on generated scenes
    python recipes/voc.py --help                  # every setting; --print_config writes them to a file

Download VOCtrainval_11-May-2012.tar (2 GB, host.robots.ox.ac.uk/pascal/VOC/voc2012) and extract it: the folder then
holds VOCdevkit/VOC2012/JPEGImages and so on. For the 10,582 training images of the paper, download benchmark.tgz
(1.4 GB, the SBD page of the Berkeley vision group) and extract it too: benchmark_RELEASE/dataset/cls and so on. What of
SBD is in VOC's own splits is left out. Without --data.sbd, VOC's 1,464 images are the training set.
Class 0 is the background; 255, the border around objects, is left out. Scores are those of val, 1,449 images.
"""

from lightning_mbu.scenes import run_recipe

DEFAULTS = {
    "model.model": {
        "class_path": "lightning_mbu.models.BiSegUNet",
        "init_args": {"classes": 21, "width": 48},
    },
    "quantize.min_channels": 4,  # of a group: those of the first block's grouped branches have few
    "data.root": "VOC",
    "data.size": [512, 512],
    "data.batch_size": 16,
    "trainer.max_epochs": 180,
}

if __name__ == "__main__":
    run_recipe("voc", DEFAULTS)
