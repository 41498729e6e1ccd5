"""Generated data in the layouts that the studies read, and the options of a study that takes seconds."""

import numpy as np
import pytest
from PIL import Image


def picture(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def noise(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def camvid(tmp_path):
    """SegNet's layout: lines with a folder of another machine, labels 0 to 11."""
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        lines = []
        for k in range(count):
            label = np.repeat(np.arange(12, dtype=np.uint8), 40).reshape(1, -1).repeat(36, 0)[:, :48]
            label[:, 24:] = 11
            picture(tmp_path / f"CamVid/{split}/{k}.png", noise(36, 48, 3))
            picture(tmp_path / f"CamVid/{split}annot/{k}.png", label)
            lines.append(f"/SegNet/CamVid/{split}/{k}.png /SegNet/CamVid/{split}annot/{k}.png")
        (tmp_path / f"CamVid/{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def isbi(tmp_path):
    for k in range(12):
        label = np.full((40, 40), 255, np.uint8)
        label[:, k : k + 10] = 0
        picture(tmp_path / f"membrane/train/image/{k}.png", noise(40, 40))
        picture(tmp_path / f"membrane/train/label/{k}.png", label)
    return tmp_path


@pytest.fixture
def nuclei(tmp_path):
    names = {"train": ["a", "b", "c", "d"], "val": ["e"], "test": ["f", "g"]}
    for split, members in names.items():
        (tmp_path / f"{split}.txt").write_text("\n".join(members))
        for name in members:
            image = noise(24, 24, 3)
            picture(tmp_path / f"merged256/images/{name}.png", image)
            picture(tmp_path / f"merged256/masks/{name}.png", (image.mean(2) > 128).astype(np.uint8) * 255)
    return tmp_path


@pytest.fixture
def tiny(nuclei, tmp_path):
    """Options of a command: the data, tiny networks, results in `out`."""
    sizes = ["--size", "16", "--width", "8", "--epochs", "1"]
    return ["--data", str(nuclei), "--output", str(tmp_path / "out"), *sizes]
