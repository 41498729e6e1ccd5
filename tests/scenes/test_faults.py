"""Damaged and mistaken files of a data set, and workers that die over them: the file is named."""

import os
import random
import signal

import lightning as L
import numpy as np
import pytest
from PIL import Image
from torch import nn

from lightning_mbu.scenes import LitScenes, SceneData, write_tree
from lightning_mbu.scenes import data as scenes_data
from lightning_mbu.scenes.data import read_image


def fit(root, workers=1, dataset="camvid"):
    data = SceneData(dataset, str(root), size=(16, 16), batch_size=1, workers=workers, augment=False)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(LitScenes(nn.Conv2d(3, data.labels.classes, 1), dataset), data)


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


def other_size(path):
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(path)


def unknown_class(path):
    Image.fromarray(np.full((64, 96), 77, np.uint8)).save(path)


@pytest.mark.parametrize(
    "folder, harm, words",
    [
        ("train", cut, r"\(60 bytes\) cannot be read as an image: .*"),
        ("trainannot", cut, "cannot be read as labels: .*"),
        ("trainannot", other_size, "are 10x10"),
        ("trainannot", unknown_class, r"holds \[77\], which no class of 11 has"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_fit_ends_with_the_name_of_the_file(tmp_path, folder, harm, words, workers):
    root = write_tree("camvid", tmp_path, images=2)
    path = sorted((root / folder).iterdir())[1]
    harm(path)
    with pytest.raises(ValueError, match=f"{path}.*{words}"):
        fit(root, workers)


def test_masks_of_one_image_that_differ_in_size_are_named(tmp_path):
    root = write_tree("nuclei", tmp_path, images=2)
    masks = sorted(next(iter((root / "stage1_train").iterdir())).glob("masks/*.png"))
    other_size(masks[-1])
    other_size(masks[-1].with_name("zz.png")) if len(masks) == 1 else None
    label = masks[0].parent
    with pytest.raises(ValueError, match=f"{label} cannot be read as labels: .*is .*10, 10.* and the first"):
        for split in ("train", "val", "test"):
            list(SceneData("nuclei", str(root), size=(16, 16), workers=0, augment=False).split(split))


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_damaged_images_are_read_or_named(tmp_path, ending):
    path, r = tmp_path / f"image.{ending}", random.Random(1)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 31, 3), np.uint8)).save(path)
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(r.randrange(1, 5)):
            damaged[r.randrange(len(damaged))] = r.randrange(256)
        path.write_bytes(damaged[: r.choice([len(damaged), r.randrange(len(damaged))])])
        try:
            image = read_image(path)
        except ValueError as error:
            assert str(path) in str(error) and "cannot be read as an image" in str(error)
            refused += 1
        else:
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert refused > 50


# The queue of the worker that died is collected later.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_worker_was_reading_when_it_died_is_named(tmp_path, monkeypatch):
    root = write_tree("camvid", tmp_path, images=2)
    deadly = sorted((root / "train").iterdir())[1]

    def read(path):
        if path == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_image(path)

    monkeypatch.setattr(scenes_data, "read_image", read)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid") as caught:
        fit(root)
    assert caught.value.__notes__ == [f"When it died, the workers were reading: {deadly}."]
