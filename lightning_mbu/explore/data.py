"""Reads the data sets of the studies from the folders in which they are handed out.

- nuclei (2018 Data Science Bowl): `merged256/` or `stage1_train/`, see `demo.nuclei`;
- CamVid (SegNet layout): `train.txt`, `val.txt`, `test.txt`, a line naming an image and its annotation, 11 classes;
- ISBI 2012 membranes: `train/image/<n>.png` and `train/label/<n>.png`.

Nothing is written, and images that no split names are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..demo.nuclei import SPLITS, load_nuclei

IGNORE = 255  # label of pixels that count nowhere
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
_STRIDE = 16  # heights and widths are multiples of what the U-Net halves


@dataclass(frozen=True)
class Labelled:
    """Images uint8 `[N, H, W, 3]` and labels uint8 `[N, H, W]`, `IGNORE` where a pixel has none."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class DataSet:
    """A data set in memory.

    Attributes:
        name: `"nuclei"`, `"camvid"` or `"isbi2012"`.
        splits: `"train"`, `"val"` and `"test"`.
        classes: their names; a single one is foreground against background, labels 1 and 0.
        turns: whether images may be turned by quarters; otherwise they are only mirrored left to right.
    """

    name: str
    splits: dict[str, Labelled]
    classes: tuple[str, ...]
    turns: bool

    def __str__(self) -> str:
        height, width = self.splits["train"].images.shape[1:3]
        counts = ", ".join(f"{len(self.splits[split].images)} {split}" for split in SPLITS)
        return f"{self.name}, {height}x{width}: {counts}"


def read_data(folder: str | Path, size: int = 128) -> DataSet:
    """Reads whichever of the three data sets lies in `folder`.

    Args:
        folder: see above; one folder further up is found too.
        size: height of the images, pixels; CamVid keeps its 4:3, the others become squares.

    Raises:
        FileNotFoundError: not a folder, or none of the three layouts is in it.
        ValueError: `size` is no multiple of 16.
    """
    root = Path(folder)
    if size % _STRIDE or size < _STRIDE:
        raise ValueError(f"size={size} must be a multiple of {_STRIDE}, such as 128.")
    if not root.is_dir():
        raise FileNotFoundError(f"data={str(folder)!r} is not a folder.")
    for place in (root, root / "CamVid"):
        if all((place / f"{split}.txt").is_file() for split in SPLITS) and (place / "trainannot").is_dir():
            return _read_camvid(place, size)
    for place in (root, root / "train", root / "membrane" / "train"):
        if (place / "image").is_dir() and (place / "label").is_dir():
            return _read_isbi(place, size)
    splits = load_nuclei(root, size)
    labelled = {name: Labelled(split.images, split.masks.astype(np.uint8)) for name, split in splits.items()}
    return DataSet("nuclei", labelled, ("nucleus",), turns=True)


def _read_camvid(folder: Path, size: int) -> DataSet:
    width = max(round(size * 4 / 3 / _STRIDE), 1) * _STRIDE
    splits = {}
    for split in SPLITS:
        images, labels = [], []
        for line in (folder / f"{split}.txt").read_text(encoding="utf-8").splitlines():
            # Lines carry the folder of the machine they were written on; the last two parts are the layout.
            pair = [folder.joinpath(*Path(column).parts[-2:]) for column in line.split()]
            if not pair:
                continue
            if len(pair) != 2:
                raise ValueError(f"{folder / split}.txt: {line!r} must name an image and its annotation.")
            images.append(_picture(pair[0], "RGB", (width, size), Image.Resampling.BILINEAR))
            label = _picture(pair[1], "L", (width, size), Image.Resampling.NEAREST)
            labels.append(np.where(label < len(CAMVID_CLASSES), label, IGNORE).astype(np.uint8))
        splits[split] = Labelled(np.stack(images), np.stack(labels))
    return DataSet("camvid", splits, CAMVID_CLASSES, turns=False)


def _read_isbi(folder: Path, size: int) -> DataSet:
    """Slices of one stack: the first 70 % train, the next 15 % validate, the last 15 % test, so that neighbours,
    which look alike, are mostly in one split. The foreground is the membrane, label 0."""
    names = sorted((path.name for path in (folder / "image").glob("*.png")), key=lambda n: (len(n), n))
    if len(names) < 7:
        raise ValueError(f"{folder / 'image'} holds {len(names)} PNG images; a split needs at least 7.")
    first, second = round(0.7 * len(names)), round(0.85 * len(names))
    splits = {}
    for split, part in zip(SPLITS, (names[:first], names[first:second], names[second:]), strict=True):
        images = [
            _picture(folder / "image" / n, "RGB", (size, size), Image.Resampling.BILINEAR) for n in part
        ]
        labels = [_picture(folder / "label" / n, "L", (size, size), Image.Resampling.NEAREST) for n in part]
        splits[split] = Labelled(np.stack(images), (np.stack(labels) < 128).astype(np.uint8))
    return DataSet("isbi2012", splits, ("membrane",), turns=True)


def _picture(file: Path, mode: str, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; a PNG image is expected there.")
    with Image.open(file) as picture:
        return np.asarray(picture.convert(mode).resize(size, how))
