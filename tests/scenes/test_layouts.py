"""Data sets are found in their published layouts, mapped to the classes that are scored, and refused when incomplete."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_mbu.scenes import DATASETS, SceneData, find_pairs, write_tree
from lightning_mbu.scenes.data import read_labels
from lightning_mbu.scenes.labels import IGNORE, label_map

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("MBU_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.mark.parametrize("dataset", DATASETS)
def test_generated_trees_are_read(dataset, tmp_path):
    root = write_tree(dataset, tmp_path, size=(48, 64), images=3)
    data = SceneData(dataset, str(root), size=(32, 48), batch_size=2, workers=0)
    for name in ("train", "val", "test"):
        split = data.split(name)
        assert len(split) == 3
        image, classes = split[0]
        assert image.dtype == torch.float32 and image.shape == (3, 32, 48)
        assert classes.dtype == torch.int64 and classes.shape == (32, 48)
        values = set(classes.unique().tolist())
        assert values <= {*range(data.labels.classes), IGNORE} and values != {IGNORE}
    images, classes = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 32, 48) and classes.shape == (2, 32, 48)


@pytest.mark.parametrize(
    "dataset, classes",
    [("cityscapes", 19), ("voc", 21), ("ade20k", 150), ("camvid", 11)],
)
def test_label_maps(dataset, classes):
    labels = DATASETS[dataset]
    assert labels.classes == classes == len(set(labels.names))
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = labels.to_classes(np.where(labels.known[every], every, np.uint8(255)))
    assert sorted(found[found != IGNORE].tolist()) == list(range(classes))
    name = {"cityscapes": (26, "car"), "voc": (7, "car"), "ade20k": (1, "class 1"), "camvid": (8, "car")}[
        dataset
    ]
    assert labels.names[found.flat[name[0]]] == name[1]
    assert found.flat[{"cityscapes": 0, "voc": 255, "ade20k": 0, "camvid": 11}[dataset]] == IGNORE
    unknown = int(np.flatnonzero(~labels.known)[0])
    with pytest.raises(
        ValueError, match=rf"a label image holds \[{unknown}, .*Take the label files of the release"
    ):
        labels.to_classes(every)


def test_a_folder_of_ones_own(tmp_path):
    root = write_tree("folder:5", tmp_path, size=(8, 8), images=3)
    data = SceneData("folder:5", str(root), size=(8, 8), batch_size=2, workers=0)
    assert (
        data.labels.classes == 5 and [len(data.split(name)) for name in ("train", "val", "test")] == [3] * 3
    )
    for name in ("train", "val", "test"):
        (root / f"{name}.txt").unlink()
    splits = [find_pairs("folder", root, name) for name in ("train", "val", "test")]
    assert list(map(len, splits)) == [6, 2, 1] and len({image for pairs in splits for image, _ in pairs}) == 9
    mask = splits[0][0][1]
    grey = read_labels(mask)
    Image.fromarray(np.stack([grey] * 3, -1)).save(mask)
    assert np.array_equal(read_labels(mask), grey)
    mask.unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of the 12 files.*{mask.name}.*same names"):
        find_pairs("folder", root, "train")
    for name in ("folder:", "folder:1", "folder:x", "folder:256"):
        with pytest.raises(ValueError, match="must be a number of classes from 2 to 255"):
            label_map(name)


def test_cityscapes_mapping_is_its_own():
    folder = SHARED / "layout_samples/cityscapes"
    if not folder.is_dir():
        pytest.skip("no sample of Cityscapes: set MBU_DATA to the folder that holds layout_samples")
    ((image, labels),) = find_pairs("cityscapes", folder, "val")
    assert image.name == "frankfurt_000000_000294_leftImg8bit.png"
    expected = read_labels(labels.with_name(labels.name.replace("labelIds", "labelTrainIds")))
    found = DATASETS["cityscapes"].to_classes(read_labels(labels))
    # The sample was shrunk file by file, which differs in a few pixels between classes.
    assert (found == expected).mean() > 0.995
    for value in np.unique(expected):
        assert np.bincount(found[expected == value]).argmax() == value


def test_camvid_as_published():
    folder = SHARED / "camvid"
    if not folder.is_dir():
        pytest.skip("no CamVid: set MBU_DATA to the folder that holds it")
    data = SceneData("camvid", str(folder), size=(96, 128), workers=0)
    for name in ("train", "val", "test"):
        pairs = find_pairs("camvid", folder, name)
        assert len(pairs) == len((folder / "CamVid" / f"{name}.txt").read_text().split()) // 2
        image, classes = data.split(name)[0]
        assert image.shape == (3, 96, 128) and abs(image.mean()) < 1e-3
        present = set(classes.unique().tolist()) - {IGNORE}
        assert present <= set(range(11)) and (name == "train" or {0, 3} <= present), (
            "a street has sky and road"
        )


def test_sbd_adds_what_voc_does_not_have(tmp_path):
    root = write_tree("voc", tmp_path, images=2)
    voc = {image.stem for image, _ in find_pairs("voc", root, "train")}
    joined = find_pairs("voc", root, "train", sbd=root)
    held_out = {image.stem for image, _ in find_pairs("voc", root, "val")}
    names = {image.stem for image, _ in joined}
    assert len(joined) == len(names) == 6 and voc < names and not names & held_out
    added = [labels for _, labels in joined if labels.suffix == ".mat"]
    assert len(added) == 4 and all(read_labels(labels).shape == (64, 96) for labels in added)
    assert find_pairs("voc", root / "VOCdevkit/VOC2012", "val") == find_pairs("voc", root, "val")


@pytest.mark.parametrize("folder", ["img", "cls"])
def test_half_of_sbd_is_told_from_half_of_voc(folder, tmp_path):
    root = write_tree("voc", tmp_path, images=2)
    added = next(pair for pair in find_pairs("voc", root, "train", sbd=root) if pair[1].suffix == ".mat")
    (gone := added[folder == "cls"]).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"SBD's train split are missing.*{gone.name}.*benchmark\.tgz"
    ):
        find_pairs("voc", root, "train", sbd=root)
    (root / "benchmark_RELEASE/dataset/train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.txt is missing. SBD needs benchmark\.tgz"):
        find_pairs("voc", root, "train", sbd=root)
    assert find_pairs("voc", root, "train"), "VOC alone is whole"


def test_augmentation_keeps_image_and_labels_together(tmp_path):
    root = write_tree("camvid", tmp_path, size=(64, 96), images=1)
    torch.manual_seed(0)
    image, classes = SceneData("camvid", str(root), size=(64, 96), workers=0).split("train")[0]
    # Regions of one class have one colour, up to noise and blurred edges, wherever a crop has moved them.
    for value in classes.unique():
        region = image[:, classes == value]
        if value != IGNORE and region.shape[1] > 200:
            spread = (region - region.median(dim=1, keepdim=True).values).abs().median()
            assert spread < 0.5 * image.std()


@pytest.mark.parametrize("dataset, missing, words", [
    ("cityscapes", "gtFine", "gtFine/val is missing.*gtFine_trainvaltest.zip"),
    ("cityscapes", "gtFine/val/aachen", "1 of the 4 files .* half extracted"),
    ("cityscapes", "leftImg8bit/val/aachen", "1 of the 4 files .*aachen_000000_000000_leftImg8bit.png"),
    ("cityscapes", "leftImg8bit/val/*", "2 of the 4 files"),
    ("voc", "VOCdevkit/VOC2012/ImageSets", "the list .*val.txt is missing.*VOCtrainval"),
    ("voc", "VOCdevkit/VOC2012/SegmentationClass/2007_000500.png", "1 of the 4 files"),
    ("ade20k", "ADEChallengeData2016/annotations", "annotations/validation is missing"),
    ("ade20k", "ADEChallengeData2016/images/validation/*", "2 of the 4 files .*ADE_val_00000001.jpg"),
    ("ade20k", "ADEChallengeData2016/annotations/validation/*2.png", "1 of the 4 files .*ADE_val_00000002.png"),
    ("ade20k", "ADEChallengeData2016/*/validation/*", "no images of its val split"),
    ("camvid", "val.txt", "the list .*val.txt is missing.*SegNet"), ("camvid", "valannot", "2 of the 4 files"),
    ("carvana", "train_masks", "train_masks is missing.*train.zip and train_masks.zip"),
    ("carvana", "train_masks/*_01_mask.gif", "1 of the 4 files .*_01_mask.gif"), ("carvana", "train/*_02.jpg", "1 of the 4 files"),
    ("isic", "ISIC2018_Task1_Validation_GroundTruth", "GroundTruth is missing.*six archives of task 1"),
    ("isic", "ISIC2018_Task1-2_Validation_Input/*0.jpg", "1 of the 4 files"),
    ("nuclei", "stage1_train/*/masks/*", "2 of the 4 files .*half extracted"),
    ("nuclei", "stage1_train", "No nuclei .*stage1_train"),
])  # fmt: skip
def test_half_extracted(dataset, missing, words, tmp_path):
    root = write_tree(dataset, tmp_path, images=2)
    for path in root.glob(missing):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=words):
        find_pairs(dataset, root, "val")


def test_cityscapes_has_more_than_is_read(tmp_path):
    root = write_tree("cityscapes", tmp_path, images=2)
    pairs = [find_pairs("cityscapes", root, name) for name in ("train", "val", "test")]
    for name in (
        "leftImg8bit/train_extra/augsburg/augsburg_000000_000000_leftImg8bit.png", "gtFine/val/README",
        "gtFine/test/berlin/berlin_000000_000000_gtFine_labelIds.png",
        "gtFine/val/aachen/aachen_000000_000009_gtFine_instanceIds.png",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert pairs == [find_pairs("cityscapes", root, name) for name in ("train", "val", "test")]
    assert [len(split) for split in pairs] == [2, 2, 2]


ARCHIVES = [
    ("cityscapes", "leftImg8bit", "leftImg8bit_trainvaltest.zip"), ("cityscapes", "gtFine", "gtFine_trainvaltest.zip"),
    ("voc", "VOCdevkit", "VOCtrainval_11-May-2012.tar"), ("voc", "benchmark_RELEASE", "benchmark.tgz"),
    ("ade20k", "ADEChallengeData2016", "ADEChallengeData2016.zip"),
    ("carvana", "train", "train.zip"), ("carvana", "train_masks", "train_masks.zip"),
    ("isic", "ISIC2018_Task1_Training_GroundTruth", "ISIC2018_Task1_Training_GroundTruth.zip"),
    ("nuclei", "stage1_train", "stage1_train.zip"),
]  # fmt: skip


@pytest.mark.parametrize("dataset, folder, archive", ARCHIVES)
def test_an_archive_that_is_still_packed_is_named(dataset, folder, archive, tmp_path):
    root = write_tree(dataset, tmp_path, images=1)
    shutil.rmtree(root / folder)
    for _, _, name in ARCHIVES:
        (root / name).touch()
    with pytest.raises(FileNotFoundError, match=f"/{re.escape(archive)} is there: extract it"):
        find_pairs(dataset, root, "train", sbd=root if dataset == "voc" else None)


def test_no_car_is_in_two_splits_and_all_are_in_one(tmp_path):
    root = write_tree("carvana", tmp_path, images=2)
    splits = {
        name: {image.stem[:-3] for image, _ in find_pairs("carvana", root, name)}
        for name in ("train", "val", "test")
    }
    assert [len(cars) for cars in splits.values()] == [1, 1, 1] and len(set().union(*splits.values())) == 3
    assert len(list((root / "train").glob("*.jpg"))) == 6


def test_nuclei_as_published():
    folder = SHARED / "nuclei"
    if not folder.is_dir():
        pytest.skip("no nuclei: set MBU_DATA to the folder that holds them")
    original, merged = (
        find_pairs("nuclei", folder / name, "train") for name in ("original_layout", "merged256")
    )
    image, masks = original[0]
    assert masks.is_dir() and set(np.unique(read_labels(masks))) == {0, 255}
    with Image.open(image) as opened:
        assert read_labels(masks).shape == opened.size[::-1]
    assert len(merged) > len(original) and merged[0][1].is_file()


def test_augmentation_can_be_left_out_and_can_turn(tmp_path):
    root = str(write_tree("nuclei", tmp_path, size=(32, 32), images=1))
    common = {"size": (32, 32), "workers": 0, "smallest_crop": 1.0}
    plain = SceneData("nuclei", root, **common, augment=False).split("train")
    turned = SceneData("nuclei", root, **common, turns=True).split("train")
    image, classes = plain[0]
    assert all(torch.equal(plain[0][0], image) for _ in range(3))
    found = {turned[0][1].numpy().tobytes() for _ in range(40)}
    assert classes.T.contiguous().numpy().tobytes() in found and len(found) > 4


def test_wrong_arguments(tmp_path):
    for arguments, words in [
        (("kitti", tmp_path, "val"), "'kitti' is unknown"), (("voc", tmp_path, "dev"), "split='dev'"),
        (("camvid", tmp_path, "val", tmp_path), "belongs to dataset='voc'"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            find_pairs(*arguments)
    with pytest.raises(FileNotFoundError, match="is not a folder. For ade20k it holds"):
        find_pairs("ade20k", tmp_path / "nowhere", "val")
    with pytest.raises(FileNotFoundError, match="benchmark.tgz"):
        find_pairs("voc", write_tree("voc", tmp_path / "voc"), "train", sbd=tmp_path)
    with pytest.raises(ValueError, match="smallest_crop=0 must be above 0"):
        SceneData("camvid", str(tmp_path), smallest_crop=0)
    with pytest.raises(ValueError, match=r"uint8 \[4, 4, 3\]; expected uint8 \[H, W\]"):
        DATASETS["voc"].to_classes(np.zeros((4, 4, 3), np.uint8))


def test_labels_of_another_size_are_refused(tmp_path):
    root = write_tree("camvid", tmp_path, images=1)
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(root / "valannot" / "0001TP_000000.png")
    with pytest.raises(ValueError, match="is 64x96 and its labels .* are 10x10"):
        SceneData("camvid", str(root), workers=0).split("val")[0]
