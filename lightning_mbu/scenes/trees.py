"""Small generated data sets in exactly the folder layouts of the real ones, for tests and `--smoke`."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from ..demo.nuclei import SPLITS, split_of
from .labels import DATASETS, IGNORE, label_map, layout_of

_BLOCKS = 6  # coloured rectangles per image


def generate_scene(
    stored: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """An image of coloured rectangles and its labels; every class has a colour of its own.

    Args:
        stored: label values to draw from.
        size: height and width in pixels.
        rng: source of chance.

    Returns:
        uint8 `[H, W, 3]` and uint8 `[H, W]`.
    """
    height, width = size
    labels = np.full(size, rng.choice(stored), np.uint8)
    for value in rng.choice(stored, _BLOCKS):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        labels[top : top + height // 3, left : left + width // 3] = value
    colours = np.random.default_rng(0).integers(30, 226, (256, 3))
    image = colours[labels] + rng.normal(0, 8, (*size, 3))
    return image.clip(0, 255).astype(np.uint8), labels


def write_tree(dataset: str, root: str | Path, size: tuple[int, int] = (64, 96), images: int = 4) -> Path:
    """Writes a small data set below `root`.

    Args:
        dataset: a name that `find_pairs` knows; `"voc"` comes with SBD, `"nuclei"` in its original layout.
        root: made where it is missing.
        size: height and width in pixels.
        images: per split.

    Returns:
        `root`.

    Raises:
        ValueError: an unknown data set.
    """
    stored = _stored(dataset)
    layout = layout_of(dataset)
    rng = np.random.default_rng(list(DATASETS).index(layout))
    root = Path(root)
    writer = {
        "cityscapes": _cityscapes, "voc": _voc, "ade20k": _ade20k, "camvid": _camvid,
        "carvana": _carvana, "isic": _isic, "nuclei": _nuclei, "folder": _own,
    }[layout]  # fmt: skip
    for split in ("train", "val") if layout in ("cityscapes", "voc", "ade20k") else SPLITS:
        scenes = [generate_scene(stored, size, rng) for _ in range(images)]
        writer(root, split, scenes)
    return root


def _stored(dataset: str) -> np.ndarray:
    """Label values to draw from: every class, and one value without a class (a border, something else, unlabelled)."""
    labels = label_map(dataset)
    table = labels.table
    if IGNORE not in table:
        return np.array([0, 1 if dataset == "carvana" else 255])
    return np.append(np.flatnonzero(table != IGNORE), np.flatnonzero((table == IGNORE) & labels.known)[0])


def _names(prefix: str, split: str, count: int) -> list[str]:
    """`count` names that the hash of `split_of` puts into `split`."""
    numbered = (f"{prefix}{number:03d}" for number in itertools.count())
    return list(itertools.islice((name for name in numbered if split_of(name) == split), count))


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cityscapes(root: Path, split: str, scenes: list[tuple[np.ndarray, ...]]) -> None:
    for index, (image, labels) in enumerate(scenes):
        city = ("aachen", "bochum")[index % 2]
        stem = f"{city}_000000_{index:06d}"
        _save(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", image)
        _save(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", labels)


def _voc(root: Path, split: str, scenes: list[tuple[np.ndarray, ...]]) -> None:
    from scipy.io import savemat

    voc = root / "VOCdevkit" / "VOC2012"
    names = [f"2007_{(split == 'val') * 500 + index:06d}" for index in range(len(scenes))]
    for name, (image, labels) in zip(names, scenes, strict=True):
        _save(voc / "JPEGImages" / f"{name}.jpg", image)
        path = voc / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(labels).convert("P")  # VOC stores palette images
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        picture.save(path)
    _write(voc / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    # SBD repeats images of VOC's own splits, which must not come in a second time, and adds new ones.
    sbd = root / "benchmark_RELEASE" / "dataset"
    added = [name.replace("2007", "2008") for name in names]
    for name, (image, labels) in zip([*names, *added], [*scenes, *scenes], strict=True):
        _save(sbd / "img" / f"{name}.jpg", image)
        path = sbd / "cls" / f"{name}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {"GTcls": {"Segmentation": np.where(labels == IGNORE, 0, labels)}})
    _write(sbd / f"{split}.txt", [*names, *added])


def _ade20k(root: Path, split: str, scenes: list[tuple[np.ndarray, ...]]) -> None:
    folder = {"train": "training", "val": "validation"}[split]
    for index, (image, labels) in enumerate(scenes, 1):
        stem = f"ADE_{split}_{index:08d}"
        _save(root / "ADEChallengeData2016" / "images" / folder / f"{stem}.jpg", image)
        _save(root / "ADEChallengeData2016" / "annotations" / folder / f"{stem}.png", labels)


def _camvid(root: Path, split: str, scenes: list[tuple[np.ndarray, ...]]) -> None:
    lines = []
    for index, (image, labels) in enumerate(scenes):
        name = f"0001TP_{index:06d}.png"
        _save(root / split / name, image)
        _save(root / f"{split}annot" / name, labels)
        lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}")
    _write(root / f"{split}.txt", lines)


def _carvana(root: Path, split: str, scenes: list[tuple[np.ndarray, ...]]) -> None:
    (car,) = _names("car", split, 1)
    for view, (image, labels) in enumerate(scenes, 1):
        _save(root / "train" / f"{car}_{view:02d}.jpg", image)
        _save(root / "train_masks" / f"{car}_{view:02d}_mask.gif", labels)


def _isic(root: Path, split: str, scenes: list[tuple[np.ndarray, ...]]) -> None:
    name = {"train": "Training", "val": "Validation", "test": "Test"}[split]
    for index, (image, labels) in enumerate(scenes):
        _save(root / f"ISIC2018_Task1-2_{name}_Input" / f"ISIC_{index:07d}.jpg", image)
        _save(root / f"ISIC2018_Task1_{name}_GroundTruth" / f"ISIC_{index:07d}_segmentation.png", labels)


def _nuclei(root: Path, split: str, scenes: list[tuple[np.ndarray, ...]]) -> None:
    for name, (image, labels) in zip(_names("image", split, len(scenes)), scenes, strict=True):
        folder = root / "stage1_train" / name
        _save(folder / "images" / f"{name}.png", image)
        left = np.arange(labels.shape[1]) < labels.shape[1] // 2
        for number, part in enumerate((labels * left, labels * ~left)):  # one file per nucleus
            _save(folder / "masks" / f"{number}.png", part)


def _own(root: Path, split: str, scenes: list[tuple[np.ndarray, ...]]) -> None:
    names = [f"{split}{index}" for index in range(len(scenes))]
    for name, (image, labels) in zip(names, scenes, strict=True):
        _save(root / "images" / f"{name}.jpg", image)
        _save(root / "masks" / f"{name}.png", labels)
    _write(root / f"{split}.txt", names)
