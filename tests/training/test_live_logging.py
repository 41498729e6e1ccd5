"""Curves and pictures in whatever logger the user has: TensorBoard and CSV for real, others by what they offer."""

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from torch import nn

from lightning_mbu import LogPictures, MBUQuantize
from lightning_mbu.drawing import FALSE_NEGATIVE, FALSE_POSITIVE, NOTHING, TRUE_POSITIVE
from lightning_mbu.live_pictures import draw, images_and_masks, show
from lightning_mbu.models import MBUNet
from lightning_mbu.report_pictures import IGNORE
from lightning_mbu.training_log import curves, read_log

CURVES = {"mbu/phase", "mbu/binary_fraction", "mbu/mask_density", "mbu/flip_ratio", "mbu/lr", "val_loss"}
PHASED = {"float_share": 0.25, "incremental_share": 0.25}


@pytest.fixture
def unscheduled(tiny):
    """Its learning rate is MBUQuantize's cosine, which no callback of Lightning's own can log."""
    tiny.configure_optimizers = lambda: torch.optim.Adam(tiny.parameters(), lr=5e-3)
    return tiny


@pytest.fixture
def logged(unscheduled, trainer, tmp_path):
    """A run of four epochs with both loggers; the folders of each."""
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    board, table = TensorBoardLogger(tmp_path / "board"), CSVLogger(tmp_path / "csv")
    quantizer = MBUQuantize(input_size=(32, 32), **PHASED)
    run = trainer(quantizer, LogPictures(count=2, every=3), logger=[board, table], log_every_n_steps=1)
    run.fit(unscheduled)
    return board.log_dir, table.log_dir, run.num_training_batches


def test_tensorboard_shows_curves_and_pictures(logged):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logged[0], size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) >= CURVES
    assert [event.value for event in events.Scalars("mbu/phase")] == [0, 1, 2, 2]
    rates = [event.value for event in events.Scalars("mbu/lr")]
    assert rates[0] < 5e-3 and rates[2] > rates[3] > 0
    assert set(tags["images"]) == {"val/pictures/0", "val/pictures/1"}
    # Of four validations the first, the fourth by `every`, which is the last as well; none of the sanity check.
    drawn = events.Images("val/pictures/1")
    assert [event.step for event in drawn] == [logged[2], 4 * logged[2]]
    picture = Image.open(io.BytesIO(drawn[0].encoded_image_string))
    assert picture.size == (3 * 32 + 2 * 4, 32)  # image, truth, errors


def test_csv_gets_a_table_and_png_files(logged):
    folder = logged[1]
    with open(f"{folder}/metrics.csv", encoding="utf-8") as file:
        assert set(next(csv.reader(file))) >= CURVES
    charts = {curve.title: set(curve.series) for curve in curves(read_log(f"{folder}/metrics.csv"))}
    assert charts["Learning rate"] == {"mbu/lr"}
    files = sorted(path.name for path in Path(folder, "pictures").iterdir())
    steps = [logged[2], 4 * logged[2]]
    assert files == sorted(f"val-pictures-{k}-step{step:06d}.png" for k in (0, 1) for step in steps)


def test_without_a_logger_nothing_is_drawn(tiny, trainer, tmp_path):
    trainer(MBUQuantize(input_size=(32, 32)), LogPictures(), epochs=1).fit(tiny)
    assert not list(tmp_path.rglob("*.png"))


def test_a_batch_of_another_form_is_reported_before_training(tiny, trainer, tmp_path):
    class Triple(type(tiny)):
        def validation_step(self, batch, batch_idx):
            pass

        def val_dataloader(self):
            return torch.utils.data.DataLoader(list(range(4)))

    run = trainer(LogPictures(), logger=CSVLogger(tmp_path), num_sanity_val_steps=1)
    with pytest.raises(MisconfigurationException, match=r"this one is a tensor \[1\]"):
        run.fit(Triple())
    assert run.global_step == 0


class Bare(L.LightningModule):
    """Without a forward."""

    def __init__(self):
        super().__init__()
        self.net = MBUNet(width=8)


def test_the_network_is_found_where_the_module_has_no_forward(trainer, tmp_path):
    module, callback = Bare().eval(), LogPictures(count=1)
    run = trainer(logger=CSVLogger(tmp_path))
    batch = {"image": torch.randn(2, 3, 16, 16), "mask": torch.zeros(2, 16, 16)}
    (picture,) = callback._draw(run, module, batch)
    found = (module.net(batch["image"])[0, 0] > 0).numpy()
    assert (picture[:, -16:] == FALSE_POSITIVE).all(-1).tolist() == found.tolist()

    class Boxes(Bare):
        def forward(self, x):
            return {"boxes": x}

    with pytest.raises(MisconfigurationException, match=r"Boxes returns a dictionary with the keys 'boxes'"):
        callback._draw(run, Boxes(), batch)


def test_masks_with_a_channel_and_wrong_batches():
    images, masks = torch.zeros(2, 3, 4, 4), torch.ones(2, 1, 4, 4)
    assert images_and_masks([images, masks, "names"])[1].shape == (2, 4, 4)
    for wrong, words in (
        ((images,), "a tuple of a tensor"),
        ({"x": images}, "the keys 'x'"),
        (images, "a tensor"),
    ):
        with pytest.raises(MisconfigurationException, match=words):
            images_and_masks(wrong)


def test_errors_have_their_colours():
    mask = torch.tensor([[1, 0], [1, 0]])
    logits = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]])
    expected = [[TRUE_POSITIVE, FALSE_POSITIVE], [FALSE_NEGATIVE, NOTHING]]
    one, two = (
        draw(torch.rand(3, 2, 2), mask, logits),
        draw(torch.rand(1, 2, 2), mask, torch.cat([-logits, logits])),
    )
    for picture in (one, two):
        assert picture.dtype == np.uint8 and picture.shape == (2, 3 * 2 + 2 * 4, 3)
        assert np.array_equal(picture[:, -2:], np.array(expected))
    classes = torch.tensor([[2, IGNORE], [0, 1]])
    picture = draw(
        torch.rand(3, 2, 2),
        classes,
        nn.functional.one_hot(torch.tensor([[2, 2], [0, 0]]), 3).permute(2, 0, 1).float(),
    )
    assert np.array_equal(
        picture[:, -2:], np.array([[TRUE_POSITIVE, NOTHING], [TRUE_POSITIVE, FALSE_POSITIVE]])
    )


def test_other_loggers_by_what_they_offer(tmp_path):
    pictures, calls = [np.zeros((2, 2, 3), np.uint8)], []
    show(SimpleNamespace(log_image=lambda *a: calls.append(a)), "val/p", pictures, 7)  # Weights & Biases
    assert calls == [("val/p", pictures, 7)]
    calls.clear()
    comet = SimpleNamespace(log_image=lambda *a, **options: calls.append((a, options)))
    show(SimpleNamespace(experiment=comet), "val/p", pictures, 7)
    assert calls == [((pictures[0], "val/p/0"), {"step": 7})]
    show(SimpleNamespace(experiment=None, save_dir=None), "val/p", pictures, 7)  # keeps no files: passed over
    show(SimpleNamespace(experiment=None, save_dir=str(tmp_path)), "val/p", pictures, 7)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["val-p-0-step000007.png"]


@pytest.mark.parametrize("options", [{"count": 0}, {"every": 0}])
def test_settings(options):
    with pytest.raises(ValueError, match="must both be at least 1"):
        LogPictures(**options)
