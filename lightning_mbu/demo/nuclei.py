"""Reads the nuclei of the 2018 Data Science Bowl from a folder in either of its two layouts:

- **compact**: `merged256/images/<id>.png` and `merged256/masks/<id>.png`, one mask for all nuclei of an
  image;
- **original**: `stage1_train/<id>/images/<id>.png` and `stage1_train/<id>/masks/*.png`, one mask per nucleus.

`train.txt`, `val.txt` and `test.txt` (one id a line) beside or above the images say which image is in which
split; without them a hash of the id does, so that an image stays in its split when others are added. An id on
disk that no split file names is left out: published splits hold images back on purpose.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

SPLITS = ("train", "val", "test")
SHARES = (0.70, 0.15, 0.15)


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W, 3], masks bool [N, H, W] and the names of the N images."""

    images: np.ndarray
    masks: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """What lies under a root: the kind of layout, the folder of the images, the folder of the split files."""

    kind: str
    folder: Path
    split_folder: Path | None

    def names(self) -> list[str]:
        """Ids of all images on disk, sorted."""
        if self.kind == "compact":
            return sorted(path.stem for path in (self.folder / "images").glob("*.png"))
        return sorted(path.parent.name for path in self.folder.glob("*/images"))

    def image_file(self, name: str) -> Path:
        """Where the image of this id is."""
        return self.folder / ("images" if self.kind == "compact" else f"{name}/images") / f"{name}.png"

    def mask_files(self, name: str) -> list[Path]:
        """Where the masks of this id are: one in the compact layout, one per nucleus in the original."""
        if self.kind == "compact":
            return [self.folder / "masks" / f"{name}.png"]
        return sorted((self.folder / name / "masks").glob("*.png"))


def find_layout(root: str | Path, layout: str = "auto") -> Layout:
    """Tell which layout lies under `root`; where both do, the compact one is taken (it loads faster).

    Args:
        root: the folder that holds `merged256` or `stage1_train`, or one of these two itself.
        layout: "auto", or "compact" or "original" to insist.

    Raises:
        FileNotFoundError: `root` is not a folder, or the layout asked for is not in it.
        ValueError: `layout` is none of the three words.
    """
    if layout not in ("auto", "compact", "original"):
        raise ValueError(f"layout={layout!r} is unknown. Use 'auto', 'compact' or 'original'.")
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"data={str(root)!r} is not a folder. Leave data unset to train on generated cells."
        )
    compact = [f for f in (root / "merged256", root) if (f / "images").is_dir() and (f / "masks").is_dir()]
    original = [
        folder
        for folder in (root / "stage1_train", root / "original_layout" / "stage1_train", root)
        if any(folder.glob("*/images"))
    ]
    kinds = {"compact": compact, "original": original}
    for kind in ("compact", "original") if layout == "auto" else (layout,):
        if kinds[kind]:
            folder = kinds[kind][0]
            return Layout(kind, folder, _split_folder(root, folder))
    found = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
    raise FileNotFoundError(
        f"No nuclei (layout={layout!r}) under {str(root)!r}; it holds {found}. Expected "
        "merged256/images and merged256/masks (compact), or stage1_train/<id>/images and "
        "stage1_train/<id>/masks (original)."
    )


def _split_folder(root: Path, folder: Path) -> Path | None:
    # At most two levels above the images, where both layouts keep them; further up they would be another's.
    for candidate in dict.fromkeys((root, folder, folder.parent, folder.parent.parent)):
        present = [name for name in SPLITS if (candidate / f"{name}.txt").is_file()]
        if present and len(present) < len(SPLITS):
            missing = ", ".join(f"{name}.txt" for name in SPLITS if name not in present)
            raise FileNotFoundError(
                f"{str(candidate)!r} has split files but not {missing}. Give all three of "
                "train.txt, val.txt and test.txt, or none: a hash of the names then splits images 70/15/15."
            )
        if present:
            return candidate
    return None


def split_of(name: str) -> str:
    """The split that a hash of the id puts it in, 70/15/15; the same on every machine."""
    place = int(hashlib.sha256(f"lightning-mbu:{name}".encode()).hexdigest()[:8], 16) / 2**32
    return SPLITS[0] if place < SHARES[0] else SPLITS[1] if place < SHARES[0] + SHARES[1] else SPLITS[2]


def split_names(layout: Layout) -> dict[str, list[str]]:
    """Ids of each split, from the split files where there are any, else by `split_of`.

    Raises:
        ValueError: a split is empty.
        FileNotFoundError: in the compact layout, a split file names an image that is not there.
    """
    names = layout.names()
    if layout.split_folder is None:
        splits = {split: [name for name in names if split_of(name) == split] for split in SPLITS}
    else:
        on_disk, splits = set(names), {}
        for split in SPLITS:
            listed = (layout.split_folder / f"{split}.txt").read_text(encoding="utf-8").split()
            # The original layout is also handed out as a few cases with the split files of the whole set.
            absent = [name for name in listed if name not in on_disk] if layout.kind == "compact" else []
            if absent:
                raise FileNotFoundError(
                    f"{layout.split_folder / split}.txt names {absent[0]!r}, but "
                    f"{layout.image_file(absent[0])} does not exist ({len(absent)} of {len(listed)} absent). "
                    "Restore it or take the name out."
                )
            splits[split] = [name for name in listed if name in on_disk]
    empty = [split for split in SPLITS if not splits[split]]
    if empty:
        raise ValueError(
            f"No image of {str(layout.folder)!r} ({len(names)} images) is in the split {empty[0]!r}. "
            "Add images, or write train.txt, val.txt and test.txt with one image name a line."
        )
    return splits


def load_nuclei(root: str | Path, size: int = 128, layout: str = "auto") -> dict[str, Split]:
    """Read all images and masks under `root` into memory, resized to `size` (images bilinear, masks nearest).

    Args:
        root, layout: as in `find_layout`.
        size: height and width in pixels; the ratio of the sides is not kept.

    Returns:
        The splits "train", "val" and "test".

    Raises:
        ValueError: a file is not a readable image, or a mask and its image differ in size; the file is named.
        FileNotFoundError: a mask is missing, or as in `find_layout`.
    """
    found = find_layout(root, layout)
    splits = split_names(found)
    everything = [name for split in SPLITS for name in splits[split]]
    console = Console(stderr=True)
    progress = track(
        everything,
        f"Reading {found.kind} nuclei",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    loaded = {name: _load_case(found, name, size) for name in progress}
    return {
        split: Split(
            np.stack([loaded[name][0] for name in names]),
            np.stack([loaded[name][1] for name in names]),
            tuple(names),
        )
        for split, names in splits.items()
    }


def _load_case(layout: Layout, name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    file = layout.image_file(name)
    picture = _open(file, "RGB")
    masks = layout.mask_files(name)
    if not masks:
        raise FileNotFoundError(
            f"{file} has no masks: {file.parent.parent / 'masks'} holds no PNG. One per nucleus is expected."
        )
    merged = np.zeros((picture.height, picture.width), bool)
    for mask_file in masks:
        mask = _open(mask_file, "L")
        if mask.size != picture.size:
            raise ValueError(
                f"{mask_file} is {mask.width}x{mask.height} pixels, but its image {file} is "
                f"{picture.width}x{picture.height}. A mask must have its image's size."
            )
        merged |= np.asarray(mask) > 127
    image = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return image, np.asarray(Image.fromarray(merged).resize((size, size), Image.Resampling.NEAREST))


def _open(file: Path, mode: str) -> Image.Image:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; a PNG image is expected there.")
    try:
        with Image.open(file) as picture:
            return picture.convert(mode)
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for some broken PNG chunks
        raise ValueError(
            f"{file} ({file.stat().st_size} bytes) cannot be read as a PNG image: {error}."
        ) from error
