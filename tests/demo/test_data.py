"""Both folder layouts, stable splits, errors that name the file, and a data module that repeats itself."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_mbu.demo.data import CellsData, OrientationSampler, find_layout, load_nuclei, standardise
from lightning_mbu.demo.nuclei import split_of

NAMES = [f"case-{index:02d}" for index in range(40)]
FIRST_SPLITS = ["test", "train", "train", "train", "test", "train"]


def picture(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def write_compact(root: Path, names: list[str] = NAMES) -> Path:
    for index, name in enumerate(names):
        image = np.random.default_rng(index).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        mask = np.zeros((16, 16), bool)
        mask[: index % 8 + 1] = True
        picture(root / "merged256" / "images" / f"{name}.png", image)
        picture(root / "merged256" / "masks" / f"{name}.png", mask)
    return root


def write_original(root: Path, names: list[str] = NAMES) -> Path:
    for index, name in enumerate(names):
        image = np.random.default_rng(index).integers(0, 256, (20, 24 + index % 3, 4)).astype(np.uint8)
        picture(root / "stage1_train" / name / "images" / f"{name}.png", image)
        for nucleus in range(3):
            mask = np.zeros(image.shape[:2], np.uint8)
            mask[4 * nucleus : 4 * nucleus + 5, :12] = 255
            picture(root / "stage1_train" / name / "masks" / f"{nucleus}.png", mask)
    return root


def write_splits(root: Path, train: list[str], val: list[str], test: list[str]) -> None:
    for split, names in (("train", train), ("val", val), ("test", test)):
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")


def test_compact(tmp_path):
    splits = load_nuclei(write_compact(tmp_path), 16)
    assert sum(len(split.names) for split in splits.values()) == 40
    for split in splits.values():
        assert split.images.shape == (len(split.names), 16, 16, 3) and split.images.dtype == np.uint8
        for name, mask in zip(split.names, split.masks, strict=True):
            assert mask.dtype == bool and mask.sum() == 16 * (NAMES.index(name) % 8 + 1)


def test_original_merges_masks_and_resizes(tmp_path):
    splits = load_nuclei(write_original(tmp_path), 20)
    rows = np.asarray(splits["train"].masks.max(axis=2))
    assert rows[:, :13].all() and not rows[:, 13:].any()


@pytest.mark.parametrize("inside", ["", "stage1_train"])
def test_split_files_are_found_from_either_root(tmp_path, inside):
    write_original(tmp_path)
    write_splits(tmp_path, NAMES[:5], NAMES[5:7], [*NAMES[7:9], "not-in-the-sample"])
    splits = load_nuclei(tmp_path / inside, 8)
    assert {name: split.names for name, split in splits.items()} == {
        "train": tuple(NAMES[:5]), "val": tuple(NAMES[5:7]), "test": tuple(NAMES[7:9])
    }  # fmt: skip


def test_compact_wins_unless_told(tmp_path):
    write_original(write_compact(tmp_path))
    assert find_layout(tmp_path).kind == "compact"
    assert find_layout(tmp_path / "merged256").kind == "compact"
    assert find_layout(tmp_path, "original").kind == "original"


def test_hash_split_is_stable(tmp_path):
    everything = load_nuclei(write_compact(tmp_path), 4)
    for name in NAMES[:10]:
        (tmp_path / "merged256" / "images" / f"{name}.png").unlink()
    fewer = load_nuclei(tmp_path, 4)
    assert all(set(fewer[split].names) <= set(everything[split].names) for split in fewer)
    # Written down: a change of the hash would mix old training images into new test sets.
    assert [split_of(name) for name in NAMES[:6]] == FIRST_SPLITS
    share = np.mean([split_of(str(index)) == "train" for index in range(2000)])
    assert 0.67 < share < 0.73


def test_bad_files_are_named(tmp_path):
    write_compact(tmp_path)
    broken = tmp_path / "merged256" / "images" / "case-03.png"
    broken.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"case-03\.png \(12 bytes\) cannot be read as a PNG"):
        load_nuclei(tmp_path, 8)
    picture(broken, np.zeros((16, 12, 3), np.uint8))
    with pytest.raises(ValueError, match=r"case-03\.png is 16x16 pixels, but its image .* is 12x16"):
        load_nuclei(tmp_path, 8)
    broken.unlink()
    write_splits(tmp_path, NAMES[:5], NAMES[5:7], NAMES[7:9])
    with pytest.raises(FileNotFoundError, match=r"train\.txt names 'case-03', but"):
        load_nuclei(tmp_path, 8)
    (tmp_path / "val.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"has split files but not val\.txt"):
        load_nuclei(tmp_path, 8)


def test_missing_masks_and_empty_splits(tmp_path):
    write_original(tmp_path, NAMES[:1])
    with pytest.raises(ValueError, match=r"\(1 images\) is in the split '\w+'"):
        load_nuclei(tmp_path, 8)
    write_original(tmp_path)
    for mask in (tmp_path / "stage1_train" / NAMES[0] / "masks").iterdir():
        mask.unlink()
    with pytest.raises(FileNotFoundError, match="has no masks"):
        load_nuclei(tmp_path, 8)


def test_wrong_roots(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find_layout(tmp_path / "absent")
    (tmp_path / "something").mkdir()
    with pytest.raises(FileNotFoundError, match="it holds something. Expected merged256/images"):
        find_layout(tmp_path)
    with pytest.raises(ValueError, match="layout='both' is unknown"):
        find_layout(tmp_path, "both")


def real_nuclei() -> Path | None:
    repository = Path(__file__).resolve().parents[2]
    named = [Path(os.environ["MBU_DATA"])] if os.environ.get("MBU_DATA") else []
    for base in [*named, repository.parent / "shared" / "data"]:
        for folder in (base / "nuclei", base):
            if any((folder / part).is_dir() for part in ("merged256", "original_layout", "stage1_train")):
                return folder
    return None


@pytest.mark.skipif(real_nuclei() is None, reason="no nuclei: set MBU_DATA to the folder that holds them")
@pytest.mark.parametrize("layout", ["compact", "original"])
def test_real_nuclei(layout):
    root = real_nuclei()
    assert root is not None
    try:
        splits = load_nuclei(root, 64, layout)
    except FileNotFoundError:
        pytest.skip(f"the data folder has no {layout} layout")
    for split in splits.values():
        assert 0.02 < split.masks.mean() < 0.5 and len(split.images) == len(set(split.names)) > 0
    assert not set(splits["train"].names) & set(splits["test"].names)


def test_standardise_is_exact_under_turns():
    image = np.random.default_rng(0).integers(0, 200, (12, 9, 3)).astype(np.uint8)
    result = standardise(image)
    assert result.shape == (3, 12, 9) and result.dtype == torch.float32
    assert abs(float(result.mean())) < 1e-6 and abs(float(result.std(correction=0)) - 1) < 1e-5
    assert torch.equal(standardise(np.rot90(image)), torch.rot90(result, 1, (1, 2)))
    assert torch.equal(standardise(np.full((4, 4, 3), 7, np.uint8)), torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match=r"float32 \[4, 4\]; expected uint8"):
        standardise(np.zeros((4, 4), np.float32))


def test_data_module_repeats_bit_for_bit():
    first, second = (CellsData(size=32, count=20, batch_size=4, seed=7) for _ in range(2))
    for _epoch in range(2):
        for (x, y), (u, v) in zip(first.train_dataloader(), second.train_dataloader(), strict=True):
            assert torch.equal(x, u) and torch.equal(y, v)
            assert x.shape == (min(4, len(x)), 3, 32, 32) and y.shape == (len(x), 1, 32, 32)
            assert x.dtype == y.dtype == torch.float32 and set(y.unique().tolist()) <= {0.0, 1.0}


def test_masks_turn_with_their_images():
    data = CellsData(size=32, count=20, batch_size=1)
    dataset = data.train_dataloader().dataset
    image, mask = dataset[0]
    for orientation in range(8):
        other_image, other_mask = dataset[orientation]
        turned_image = torch.rot90(image, orientation % 4, (1, 2))
        turned_mask = torch.rot90(mask, orientation % 4, (1, 2))
        if orientation >= 4:
            turned_image, turned_mask = turned_image.flip(2), turned_mask.flip(2)
        assert torch.equal(other_image, turned_image) and torch.equal(other_mask, turned_mask)


def test_sampler_visits_each_image_once_and_resumes():
    sampler = OrientationSampler(50, seed=1)
    epochs = [list(sampler) for _ in range(3)]
    assert all(sorted(item // 8 for item in epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] and len({item % 8 for item in epochs[0]}) == 8
    resumed = OrientationSampler(50, seed=1)
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]


def test_data_module_describes_itself(tmp_path):
    data = CellsData(size=32, count=20)
    assert data.describe() == "generated cells (seed 0), 32x32: 14 train, 3 val, 3 test"
    assert data.test_images().shape == (3, 32, 32, 3) and data.test_images().dtype == np.uint8
    assert data.class_names == ("nucleus",)
    assert len(list(data.val_dataloader())) == len(list(data.test_dataloader())) == 1
    assert "(compact layout), 8x8: " in CellsData(write_compact(tmp_path), size=8).describe()
    with pytest.raises(ValueError, match="count=5"):
        CellsData(count=5)
    with pytest.raises(ValueError, match="batch_size=0"):
        CellsData(batch_size=0)
