"""The demo's images as a Lightning data module: generated cells, or nuclei from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .cells import generate_cells
from .nuclei import SHARES, SPLITS, Split, find_layout, load_nuclei

__all__ = ["CellsData", "CellsDataset", "OrientationSampler", "find_layout", "load_nuclei", "standardise"]

ORIENTATIONS = 8  # four quarter turns, each with and without a mirror: all that keep a square grid of pixels


def standardise(image: np.ndarray) -> torch.Tensor:
    """Shift and scale an image to mean 0 and deviation 1 over all its pixels and channels.

    The sums are of integers, so they are exact: a turned image gives exactly the turned result.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        float32 [3, H, W]; all zeros for an image of one colour.

    Raises:
        ValueError: another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"Got an image of {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3] with values 0 to "
            "255."
        )
    levels, pixels = np.arange(256), np.bincount(image.ravel(), minlength=256)
    mean = (pixels * levels).sum() / image.size
    variance = (pixels * levels**2).sum() / image.size - mean**2
    # Below one grey level of deviation there is nothing but rounding to scale up.
    scaled = (image.astype(np.float32) - np.float32(mean)) / np.float32(max(variance, 1.0) ** 0.5)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


class CellsDataset(Dataset):
    """Standardised images and masks; if `oriented`, item `k` is image `k // 8` in orientation `k % 8`."""

    def __init__(self, split: Split, oriented: bool) -> None:
        self.split = split
        self.oriented = oriented

    def __len__(self) -> int:
        return len(self.split.images) * (ORIENTATIONS if self.oriented else 1)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, torch.Tensor]:
        index, orientation = divmod(item, ORIENTATIONS) if self.oriented else (item, 0)
        image, mask = self.split.images[index], self.split.masks[index]
        image, mask = np.rot90(image, orientation % 4), np.rot90(mask, orientation % 4)
        if orientation >= 4:
            image, mask = image[:, ::-1], mask[:, ::-1]
        return standardise(image), torch.from_numpy(np.ascontiguousarray(mask)).float()[None]


class OrientationSampler(Sampler[int]):
    """Each image once an epoch, shuffled, in a random one of its eight orientations.

    Order and orientations depend on (seed, epoch) alone, so a run that is resumed sees what it would have
    seen.
    """

    def __init__(self, images: int, seed: int) -> None:
        self.images, self.seed, self.epoch = images, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.images

    def __iter__(self) -> Iterator[int]:
        # A prime far above any number of epochs keeps the streams of neighbouring seeds apart.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        self.epoch += 1  # for loops without a Trainer, which would otherwise repeat the first epoch
        order = torch.randperm(self.images, generator=generator)
        turns = torch.randint(ORIENTATIONS, (self.images,), generator=generator)
        return iter((order * ORIENTATIONS + turns).tolist())


class CellsData(L.LightningDataModule):
    """Batches of images float32 [B, 3, size, size] and masks float32 [B, 1, size, size] with values 0 and 1.

    Args:
        data: folder of nuclei (see `find_layout`); None generates images instead.
        layout: "auto", "compact" or "original"; only read with `data`.
        size: height and width in pixels.
        batch_size: images per batch.
        count: how many images to generate, at least 20; only read without `data`.
        seed: of the generated images, of the order of training and of its flips and turns.

    Raises:
        ValueError: `size`, `batch_size` or `count` is too small.
    """

    class_names = ("nucleus",)

    def __init__(
        self,
        data: str | Path | None = None,
        layout: str = "auto",
        size: int = 128,
        batch_size: int = 8,
        count: int = 240,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or size < 1:
            raise ValueError(
                f"batch_size={batch_size}, size={size}: both must be at least 1; 8 and 128 do well."
            )
        if data is None and count < 20:
            raise ValueError(f"count={count} leaves too few images to validate and test on. Use at least 20.")
        self.data, self.layout, self.size = data, layout, size
        self.batch_size, self.count, self.seed = batch_size, count, seed
        self._splits: dict[str, Split] | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """Raw images and masks of "train", "val" and "test", read or generated on first use."""
        if self._splits is None:
            self._splits = (
                self._generated() if self.data is None else load_nuclei(self.data, self.size, self.layout)
            )
        return self._splits

    def _generated(self) -> dict[str, Split]:
        images, masks = generate_cells(self.count, self.size, self.seed)
        first, second = round(self.count * SHARES[0]), round(self.count * (SHARES[0] + SHARES[1]))
        parts = (slice(0, first), slice(first, second), slice(second, self.count))
        return {
            split: Split(images[part], masks[part], tuple(f"cells-{k:04d}" for k in range(self.count)[part]))
            for split, part in zip(SPLITS, parts, strict=True)
        }

    def setup(self, stage: str | None = None) -> None:
        _ = self.splits

    def describe(self) -> str:
        """One line: what the images are, how many, and their size."""
        sizes = ", ".join(f"{len(self.splits[split].images)} {split}" for split in SPLITS)
        source = f"generated cells (seed {self.seed})"
        if self.data is not None:
            source = (
                f"nuclei of the 2018 Data Science Bowl ({find_layout(self.data, self.layout).kind} layout)"
            )
        return f"{source}, {self.size}x{self.size}: {sizes}"

    def test_images(self) -> np.ndarray:
        """The test images before standardisation, for pictures; uint8 [N, size, size, 3]."""
        return self.splits["test"].images

    def train_dataloader(self) -> DataLoader:
        split = self.splits["train"]
        sampler = OrientationSampler(len(split.images), self.seed)
        return DataLoader(CellsDataset(split, oriented=True), self.batch_size, sampler=sampler, num_workers=0)

    def val_dataloader(self) -> DataLoader:
        return self._plain("val")

    def test_dataloader(self) -> DataLoader:
        return self._plain("test")

    def predict_dataloader(self) -> DataLoader:
        return self._plain("test")

    def _plain(self, split: str) -> DataLoader:
        return DataLoader(CellsDataset(self.splits[split], oriented=False), self.batch_size, num_workers=0)
