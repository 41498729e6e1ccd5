"""The generator repeats itself, and draws what makes segmentation hard."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from lightning_mbu.demo.cells import generate_cell, generate_cells

PRINT_HASH = """
import hashlib, importlib.util, sys
spec = importlib.util.spec_from_file_location("cells", sys.argv[1])
cells = importlib.util.module_from_spec(spec)
sys.modules["cells"] = cells
spec.loader.exec_module(cells)
print(hashlib.sha256(b"".join(array.tobytes() for array in cells.generate_cells(6, 64, seed=3))).hexdigest())
"""


@pytest.fixture(scope="module")
def cells():
    return generate_cells(60, seed=0)


def test_types_and_shapes(cells):
    images, masks = cells
    assert images.shape == (60, 128, 128, 3) and images.dtype == np.uint8
    assert masks.shape == (60, 128, 128) and masks.dtype == bool


def test_another_process_draws_the_same():
    here = hashlib.sha256(b"".join(array.tobytes() for array in generate_cells(6, 64, seed=3))).hexdigest()
    file = Path(sys.modules["lightning_mbu.demo.cells"].__file__ or "")
    there = subprocess.run(
        [sys.executable, "-c", PRINT_HASH, file], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


def test_images_do_not_depend_on_the_count(cells):
    images, masks = generate_cells(3, seed=0)
    assert np.array_equal(images, cells[0][:3]) and np.array_equal(masks, cells[1][:3])
    assert not np.array_equal(images, generate_cells(3, seed=1)[0])


def test_foreground_and_looks(cells):
    images, masks = cells
    share = masks.mean(axis=(1, 2))
    assert 0.02 < share.min() and share.max() < 0.6 and 0.12 < share.mean() < 0.28
    stained = (images[..., 0] != images[..., 2]).any(axis=(1, 2))
    assert 0.15 < stained.mean() < 0.45
    for image, mask, in_colour in zip(images, masks, stained, strict=True):
        inside, outside = image[mask].mean(), image[~mask].mean()
        assert inside < outside if in_colour else inside > outside


def test_nuclei_touch(cells):
    # Nuclei of one image are of like size, so a region of several times the usual area is several nuclei.
    touching = 0
    for mask in cells[1]:
        labels = np.zeros(mask.shape, np.int32)
        ndimage.label(mask, output=labels)
        areas = np.bincount(labels.ravel())[1:]
        touching += areas.max() > 2.5 * np.median(areas)
    assert touching > 20


def test_brightness_alone_does_not_solve_it(cells):
    # The best single threshold of each image, chosen with the mask in hand, still misses a lot.
    scores = []
    for image, mask in zip(*cells, strict=True):
        grey = image.mean(axis=2)
        grey = 255 - grey if grey[mask].mean() < grey[~mask].mean() else grey
        found = [grey > level for level in np.percentile(grey, range(40, 100, 2))]
        scores.append(max(2 * (f & mask).sum() / (f.sum() + mask.sum()) for f in found))
    assert 0.6 < np.mean(scores) < 0.92


@pytest.mark.parametrize("size", [32, 100, 256])
def test_sizes(size):
    image, mask = generate_cell(np.random.default_rng(5), size)
    assert image.shape == (size, size, 3) and mask.shape == (size, size) and mask.any()


def test_errors():
    with pytest.raises(ValueError, match="count=0"):
        generate_cells(0)
    with pytest.raises(ValueError, match="size=16 is too small"):
        generate_cells(1, 16)
    with pytest.raises(ValueError, match="seed=-1"):
        generate_cells(1, seed=-1)
