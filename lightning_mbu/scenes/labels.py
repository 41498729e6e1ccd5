"""What the label images of each data set hold: class names, and how stored values become class indices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORE = 255  # in every label array here: no class, left out of loss and scores

_CITYSCAPES = {  # labelId -> name, in the order of the 19 training ids (Cityscapes' own helpers/labels.py)
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car",
    27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip


@dataclass(frozen=True)
class LabelMap:
    """The classes of one data set.

    Attributes:
        names: of the classes, by index.
        table: uint8 `[256]`, stored value -> class index or `IGNORE`.
        known: bool `[256]`, values that the data set stores; others are in no label image of it.
    """

    names: tuple[str, ...]
    table: np.ndarray
    known: np.ndarray

    @property
    def classes(self) -> int:
        return len(self.names)

    def to_classes(self, stored: np.ndarray) -> np.ndarray:
        """uint8 `[H, W]` as read from the file -> uint8 `[H, W]` of class indices and `IGNORE`.

        Raises:
            ValueError: another type or shape, as of a label image in colours, or a value that the data set does not have.
        """
        if stored.dtype != np.uint8 or stored.ndim != 2:
            raise ValueError(
                f"a label image is {stored.dtype} {list(stored.shape)}; expected uint8 [H, W] with one class number "
                "per pixel. Take the label files, not the coloured ones that are made for people."
            )
        unknown = np.flatnonzero((np.bincount(stored.ravel(), minlength=256) > 0) & ~self.known)
        if unknown.size:
            raise ValueError(
                f"a label image holds {unknown[:5].tolist()}, which no class of {len(self.names)} has, nor what is left "
                "out. Take the label files of the release, not resampled or coloured ones."
            )
        return self.table[stored]


def _map(
    names: tuple[str, ...], stored: tuple[int, ...] | range, left_out: tuple[int, ...] | range
) -> LabelMap:
    known = np.zeros(256, bool)
    known[[*stored, *left_out, IGNORE]] = True
    table = np.full(256, IGNORE, np.uint8)
    table[list(stored)] = np.arange(len(names))
    table.setflags(write=False)
    return LabelMap(names, table, known)


def _foreground(name: str) -> LabelMap:
    """0 is the background and everything else `name`: masks are stored as 0 and 1 or as 0 and 255."""
    table = np.minimum(np.arange(256), 1).astype(np.uint8)
    table.setflags(write=False)
    return LabelMap(("background", name), table, np.ones(256, bool))


DATASETS: dict[str, LabelMap] = {
    "cityscapes": _map(tuple(_CITYSCAPES.values()), tuple(_CITYSCAPES), range(34)),
    # 255 is the border around objects.
    "voc": _map(_VOC, range(21), ()),
    # 0 is everything else; objectInfo150.txt of the data set names 1 to 150.
    "ade20k": _map(tuple(f"class {index}" for index in range(1, 151)), range(1, 151), (0,)),
    # 11 is unlabelled.
    "camvid": _map(_CAMVID, range(11), (11,)),
    # The three of the MBU-Net paper: one thing and its background.
    "carvana": _foreground("car"),
    "isic": _foreground("lesion"),
    "nuclei": _foreground("nucleus"),
    # Your own images and masks; "folder:5" has the classes 0 to 4, and 255 for none.
    "folder": _foreground("foreground"),
}


def layout_of(dataset: str) -> str:
    """The name of a layout: `dataset` without its number of classes."""
    return "folder" if dataset.startswith("folder:") else dataset


def label_map(dataset: str) -> LabelMap:
    """The classes of `dataset`.

    Raises:
        ValueError: an unknown name, or no number of classes behind `"folder:"`.
    """
    if layout_of(dataset) != dataset:
        count = dataset.removeprefix("folder:")
        if not count.isdecimal() or not 2 <= int(count) <= IGNORE:
            raise ValueError(
                f"dataset={dataset!r}: {count!r} must be a number of classes from 2 to {IGNORE}."
            )
        return _map(tuple(f"class {index}" for index in range(int(count))), range(int(count)), ())
    if dataset not in DATASETS:
        raise ValueError(f"dataset={dataset!r} is unknown; choose one of {', '.join(DATASETS)}.")
    return DATASETS[dataset]
