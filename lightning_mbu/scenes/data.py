"""SceneData: a data set in its original layout as batches, with the augmentation of the paper."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..demo.data import standardise
from .labels import label_map
from .layouts import Pair, find_pairs

# Or importing albumentations asks the network for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A


def read_labels(path: Path) -> np.ndarray:
    """uint8 `[H, W]` as stored: an image (palettes give their indices), a .mat file of SBD, or a folder of masks of one
    object each, whose largest value counts."""
    if path.is_dir():
        masks = {file: read_labels(file) for file in sorted(path.glob("*.png"))}
        for file, mask in masks.items():
            if mask.shape != (shape := next(iter(masks.values())).shape):
                raise ValueError(f"{file.name} is {list(mask.shape)} and the first mask there {list(shape)}.")
        return np.max(list(masks.values()), axis=0)
    if path.suffix == ".mat":
        from scipy.io import loadmat

        return np.asarray(loadmat(path, squeeze_me=True)["GTcls"]["Segmentation"].item(), np.uint8)
    with Image.open(path) as image:
        # Two levels would be read as bool, and transparency as a second channel.
        stored = np.array(image.convert("L") if image.mode in ("1", "LA") else image)
    grey = (
        stored.ndim == 3 and (stored[..., :3] == stored[..., :1]).all()
    )  # numbers, saved as if they were colours
    return stored[..., 0] if grey else stored


def read_image(path: Path) -> np.ndarray:
    """uint8 `[H, W, 3]`.

    Raises:
        ValueError: not a readable image; the file is named.
    """
    try:
        with Image.open(path) as opened:
            return np.array(opened.convert("RGB"))
    except Exception as error:  # decoders of damaged files raise whatever they meet
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as an image: {error}."
        ) from error


class SceneDataset(Dataset):
    """Images float32 `[3, H, W]`, each standardised to its own mean and deviation, and classes int64 `[H, W]`.

    Args:
        dataset: a name that `find_pairs` knows.
        pairs: files of images and labels.
        transform: of both.
        workers: processes that read.
    """

    def __init__(self, dataset: str, pairs: list[Pair], transform: A.Compose, workers: int = 0):
        self.labels, self.pairs, self.transform = label_map(dataset), pairs, transform
        # The item that each worker is at; shared, for a worker that dies can say nothing.
        self._at = torch.full((workers,), -1).share_memory_() if workers else None

    def open_images(self) -> list[Path]:
        """Images that workers were reading when last heard of."""
        return [] if self._at is None else [self.pairs[item][0] for item in self._at.tolist() if item >= 0]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        worker = get_worker_info()
        if worker is None or self._at is None:
            return self._read(index)
        self._at[worker.id] = index
        item = self._read(index)
        self._at[worker.id] = -1
        return item

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        image_path, label_path = self.pairs[index]
        image = read_image(image_path)
        try:
            classes = self.labels.to_classes(read_labels(label_path))
        except Exception as error:  # as in `read_image`
            raise ValueError(f"{label_path} cannot be read as labels: {error}") from error
        if image.shape[:2] != classes.shape:
            raise ValueError(
                f"{image_path} is {image.shape[0]}x{image.shape[1]} and its labels {label_path} are "
                f"{classes.shape[0]}x{classes.shape[1]}. Extract both from the same release."
            )
        changed = self.transform(image=image, mask=classes)
        return standardise(changed["image"]), torch.from_numpy(changed["mask"].astype(np.int64))


class SceneData(L.LightningDataModule):
    """Batches of images float32 `[B, 3, H, W]` and class indices int64 `[B, H, W]`, 255 where there is none.

    Training images are randomly cropped, scaled, mirrored and shifted in colour (section IV.A of the BiSegUNet
    paper); others are resized to `size`, and scored there. A data set of one thing before a background has the classes
    0 and 1.

    Args:
        dataset: a name that `find_pairs` knows.
        root: folder of the data set as published (`find_pairs`).
        sbd: folder of the Semantic Boundaries Dataset, for VOC.
        size: height and width in pixels.
        batch_size: images per batch.
        workers: processes that read images.
        smallest_crop: smallest share of an image that a training crop covers, in (0, 1].
        turns: training images are also turned by quarters; for what has no up and down.
        augment: False leaves training images as they are, as the MBU-Net paper does.
        seed: of the order of training; augmentation follows torch's own seed.

    Raises:
        ValueError: `smallest_crop` or `batch_size` out of range, or an unknown data set.
    """

    def __init__(
        self,
        dataset: str,
        root: str,
        sbd: str | None = None,
        size: tuple[int, int] = (512, 1024),
        batch_size: int = 16,
        workers: int = 4,
        smallest_crop: float = 0.25,
        seed: int = 0,
        turns: bool = False,
        augment: bool = True,
    ):
        super().__init__()
        if not 0 < smallest_crop <= 1 or batch_size < 1:
            raise ValueError(
                f"smallest_crop={smallest_crop} must be above 0 and at most 1, and batch_size={batch_size} at least 1."
            )
        self.labels = label_map(dataset)
        self.dataset, self.root, self.sbd, self.size = dataset, root, sbd, size
        self.batch_size, self.workers = batch_size, workers
        self.smallest_crop, self.seed, self.turns, self.augment = smallest_crop, seed, turns, augment
        self._datasets: dict[str, SceneDataset] = {}  # of loaders in use

    def split(self, name: str) -> SceneDataset:
        """`"train"`, augmented, `"val"` or `"test"`."""
        height, width = self.size
        resize = A.Resize(height, width)
        if name == "train" and self.augment:
            ratio = width / height
            steps: list[Any] = [
                *([A.D4()] if self.turns else []),
                A.RandomResizedCrop((height, width), (self.smallest_crop, 1.0), (0.8 * ratio, 1.25 * ratio)),
                A.HorizontalFlip(),
                A.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.05, 0.05), p=0.8),
            ]
        else:
            steps = [resize]
        pairs = find_pairs(self.dataset, self.root, name, self.sbd)
        return SceneDataset(self.dataset, pairs, A.Compose(steps), self.workers)

    def on_exception(self, exception: BaseException) -> None:
        """Where a worker has died, as by a fault in a decoder, names what it may have died of."""
        if isinstance(exception, RuntimeError) and str(exception).startswith("DataLoader worker (pid"):
            files = [str(file) for dataset in self._datasets.values() for file in dataset.open_images()]
            exception.add_note(f"When it died, the workers were reading: {', '.join(files) or 'nothing'}.")

    def train_dataloader(self) -> DataLoader:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        return self._loader("test")

    def _loader(self, name: str) -> DataLoader:
        dataset, training = self.split(name), name == "train"
        self._datasets[name] = dataset
        return DataLoader(
            dataset, self.batch_size, shuffle=training, num_workers=self.workers,
            # A last batch of one image would stop the batch norms behind the channel attention's mean.
            drop_last=training and len(dataset) > self.batch_size,
            persistent_workers=training and self.workers > 0,
            generator=torch.Generator().manual_seed(self.seed) if training else None,
        )  # fmt: skip
