"""mbu predict on a video: every frame, upright, one at a time; and its mistakes."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_mbu import convert, load, make_plan, prepare, save
from lightning_mbu.cli import main
from lightning_mbu.commands.images import fit, normalise
from lightning_mbu.commands.video import Video, VideoWriter
from lightning_mbu.models import MBUNet

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'lightning-mbu[video]'")
FRAMES = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`net.mbu` and `film.mp4` of five frames, 34 high and 50 wide, a bright square moving through them."""
    folder = tmp_path_factory.mktemp("video")
    torch.manual_seed(0)
    model, x = MBUNet(width=8).eval(), torch.randn(1, 3, 32, 32)
    save(convert(prepare(model, make_plan(model, x)), x), folder / "net.mbu")
    writer = VideoWriter(folder / "film.mp4", 10)
    for k in range(FRAMES):
        frame = np.full((34, 50, 3), 40, np.uint8)
        frame[8:24, 6 * k : 6 * k + 16] = (220, 180, 90)
        writer.add(frame)
    writer.close(complete=True)
    return folder


def test_every_frame_gets_the_mask_that_the_network_says(place, tmp_path, capsys):
    arguments = ["predict", f"{place}/net.mbu", f"{place}/film.mp4", "-o", str(tmp_path), "--json"]
    assert main(arguments) == 0
    (found,) = json.loads(capsys.readouterr().out)["images"]
    assert found["frames"] == FRAMES and found["overlay"] == f"{tmp_path}/film_overlay.mp4"
    network, frames = load(place / "net.mbu"), list(Video(place / "film.mp4", 3))
    assert len(frames) == FRAMES == len(list((tmp_path / "film").iterdir()))
    for k, frame in enumerate(frames):
        assert frame.shape == (34, 50, 3) and frame[16, 6 * k + 8, 0] > 150 > frame[16, (6 * k + 33) % 50, 0]
        expected = network(fit(normalise(frame, "image"), None, 16))[0, 0, :34, :50].sigmoid() >= 0.5
        mask = np.asarray(Image.open(tmp_path / f"film/{k:06d}.png"))
        assert np.array_equal(mask, expected.numpy() * 255)
    drawn = list(Video(tmp_path / "film_overlay.mp4", 3))
    assert len(drawn) == FRAMES and drawn[0].shape == (34, 50, 3)


def test_grey_frames_and_no_overlay(place, tmp_path, capsys):
    assert next(iter(Video(place / "film.mp4", 1))).shape == (34, 50, 1)
    arguments = ["predict", f"{place}/net.mbu", f"{place}/film.mp4", "-o", str(tmp_path), "--no-overlays"]
    assert main(arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["film"]
    assert "masks of 5 frames in" in capsys.readouterr().out


def test_a_video_that_ends_early_leaves_no_half_of_one(tmp_path):
    writer = VideoWriter(tmp_path / "film.mp4", 10)
    writer.add(np.zeros((33, 51, 3), np.uint8))
    writer.close(complete=False)
    assert not list(tmp_path.iterdir())


def test_mistakes(place, tmp_path, capsys, monkeypatch):
    with pytest.raises(ValueError, match="takes 4 channels; videos have 1 or 3"):
        Video(place / "film.mp4", 4)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert main(["predict", f"{place}/net.mbu", f"{tmp_path}/broken.mp4", "-o", str(tmp_path)]) == 2
    assert "broken.mp4 is damaged or no video" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["predict", f"{place}/net.mbu", f"{place}/film.mp4", "-o", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "lightning-mbu[video]" in error and "ffmpeg -i film.mp4" in error
