"""mbu convert, verify and predict on a small untrained network: what they write, refuse and return."""

import json

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_mbu import convert, load, make_plan, prepare, save, save_trained
from lightning_mbu.checkpoints import store_with_weights
from lightning_mbu.cli import main
from lightning_mbu.commands.images import find_images, normalise, read_image
from lightning_mbu.demo.data import standardise
from lightning_mbu.models import MBUNet, Standardised

MODEL = ["--model", "lightning_mbu.models:MBUNet", "--arguments", '{"width": 8}']


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = MBUNet(width=8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Checkpoint `a.ckpt`, its packed `a.mbu`, `b.mbu` of other weights, and images of odd sizes in `images`."""
    folder = tmp_path_factory.mktemp("commands")
    images = np.random.default_rng(0)
    (folder / "images" / "deep").mkdir(parents=True)
    for name, size in {"one.png": (40, 33), "deep/two.png": (32, 48)}.items():
        pixels = images.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        module = Module()
        plan = make_plan(module.net, torch.zeros(1, 3, 32, 32))
        prepare(module.net, plan)
        store_with_weights(module, module.net, plan, {})
        checkpoint = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, folder / f"{name}.ckpt")
        assert main(["convert", f"{folder}/{name}.ckpt", *MODEL, "-o", f"{folder}/{name}.mbu"]) == 0
    return folder


def last_json(capsys):
    return json.loads(capsys.readouterr().out)


def test_convert_proves_and_says_on_what(place, tmp_path, capsys):
    arguments = ["convert", f"{place}/a.ckpt", *MODEL, "-o", f"{tmp_path}/net.mbu"]
    assert main([*arguments, "--images", f"{place}/images", "--json"]) == 0
    found = last_json(capsys)
    assert found["ok"] and found["mismatches"] == 0 and found["output"] == f"{tmp_path}/net.mbu"
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(load(tmp_path / "net.mbu")(x), load(place / "a.mbu")(x))


def test_verify_adds_up_images_of_several_sizes(place, capsys):
    assert main(["verify", f"{place}/a.ckpt", f"{place}/a.mbu", f"{place}/images", *MODEL, "--json"]) == 0
    both = last_json(capsys)
    counts = []
    for name in ("one.png", "deep/two.png"):
        image = f"{place}/images/{name}"
        assert main(["verify", f"{place}/a.ckpt", f"{place}/a.mbu", image, *MODEL, "--json"]) == 0
        counts.append([layer["bits"] for layer in last_json(capsys)["layers"]])
    assert [layer["bits"] for layer in both["layers"]] == [a + b for a, b in zip(*counts, strict=True)]
    assert both["images"] == 2


def test_verify_finds_the_weights_of_another_network(place, capsys):
    assert main(["verify", f"{place}/a.ckpt", f"{place}/b.mbu", f"{place}/images", *MODEL]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_a_checkpoint_from_the_middle_of_training_is_called_that(place, tmp_path):
    checkpoint = torch.load(place / "a.ckpt", weights_only=True)
    torch.save({**checkpoint, "callbacks": {"MBUQuantize": {"started": []}}}, tmp_path / "early.ckpt")
    with pytest.warns(UserWarning, match="still in float when this checkpoint"):
        assert main(["convert", f"{tmp_path}/early.ckpt", *MODEL, "-o", f"{tmp_path}/net.mbu"]) == 0


def test_a_folder_of_save_trained_names_its_network(tmp_path, capsys):
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    model = smp.Unet("resnet18", encoder_weights=None, decoder_channels=(64, 32, 32, 16, 16)).eval()
    prepare(model, make_plan(model, torch.zeros(1, 3, 64, 64)))
    save_trained(model, tmp_path / "trained")
    assert main(["convert", f"{tmp_path}/trained", "-o", f"{tmp_path}/net.mbu", "--json"]) == 0
    assert last_json(capsys)["ok"] and (tmp_path / "net.mbu").is_file()


def test_predict_writes_what_the_network_says(place, tmp_path, capsys):
    assert main(["predict", f"{place}/a.mbu", f"{place}/images", "-o", f"{tmp_path}/out", "--json"]) == 0
    found = last_json(capsys)
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert written == {"one.png", "one_overlay.jpg", "deep/two.png", "deep/two_overlay.jpg"}
    two = np.asarray(Image.open(place / "images/deep/two.png"))
    expected = load(place / "a.mbu")(standardise(two)[None])[0, 0] >= 0
    mask = np.asarray(Image.open(tmp_path / "out/deep/two.png"))
    assert np.array_equal(mask, expected.numpy() * 255)
    assert np.asarray(Image.open(tmp_path / "out/one.png")).shape == (40, 33)
    share = next(x["shares"][1] for x in found["images"] if x["mask"].endswith("two.png"))
    assert share == pytest.approx((mask > 0).mean(), abs=1e-6)


def test_a_network_that_standardises_takes_images_as_they_are(place, tmp_path):
    net = MBUNet(width=8)
    trained = Standardised(prepare(net, make_plan(net, torch.zeros(1, 3, 32, 32)))).eval()
    save(convert(trained, torch.rand(1, 3, 32, 32)), tmp_path / "any.mbu")
    image = f"{place}/images/deep/two.png"
    masks = []
    for how in ("none", "unit", "image"):
        assert (
            main(["predict", f"{tmp_path}/any.mbu", image, "--normalise", how, "-o", f"{tmp_path}/{how}"])
            == 0
        )
        masks.append(np.asarray(Image.open(tmp_path / how / "two.png")))
    x = standardise(np.asarray(Image.open(image)))[None]
    assert 0.05 < masks[0].mean() / 255 < 0.95, "a mask that says something"
    for mask in masks:  # rounding may move a bit, and with it a few pixels
        assert ((mask > 0) != (trained.network(x)[0, 0] >= 0).numpy()).mean() < 0.02


def test_predict_at_another_size_answers_in_the_images_own(place, tmp_path, capsys):
    arguments = ["predict", f"{place}/a.mbu", f"{place}/images/one.png", "-o", str(tmp_path), "--no-overlays"]
    assert main([*arguments, "--size", "64x64", "--threads", "1"]) == 0
    assert np.asarray(Image.open(tmp_path / "one.png")).shape == (40, 33)
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]
    assert "masks of 1 images in" in capsys.readouterr().out


def test_the_same_standardisation_as_in_training(place):
    image = read_image(find_images([place / "images"])[0].path, 3)
    assert torch.allclose(normalise(image, "image")[0], standardise(image), atol=1e-6)


@pytest.mark.parametrize(("arguments", "words"), [
    (["convert", "{}/a.ckpt"], "--model module:function"),
    (["convert", "{}/a.ckpt", "--model", "lightning_mbu.models:MBUNet"], "do not fit"),
    (["convert", "{}/images/one.png", *MODEL], "cannot be read as a checkpoint"),
    (["convert", "{}/images", *MODEL], "leave out --model"),
    (["convert", "{}/images"], "has no mbu.json"), (["convert", "{}/none"], "there is no file"),
    (["convert", "{}/a.ckpt", *MODEL, "-o", "{}/none/net.mbu"], "does not exist"),
    (["predict", "{}/a.mbu", "{}/none"], "there is no file"),
    (["predict", "{}/a.ckpt", "{}/images"], "not a packed model"),
    (["predict", "{}/a.mbu", "{}/a.mbu"], "is no image"),
    (["predict", "{}/a.mbu", "{}/film.mp4"], "film.mp4 is damaged or no video"),
    (["verify", "{}/a.ckpt", "{}/a.mbu", "{}/film.mp4", *MODEL], "ffmpeg -i film.mp4"),
    (["predict", "{}/a.mbu", "{}/images", "-o", "{}/images"], "would replace a file"),
    (["predict", "{}/a.mbu", "{}/images", "--size", "30x40"], "Use --size 32x48"),
    (["predict", "{}/a.mbu", "{}/images", "--threshold", "1"], "between 0 and 1"),
])  # fmt: skip
def test_a_mistake_gets_one_line(place, tmp_path, monkeypatch, arguments, words, capsys):
    monkeypatch.chdir(tmp_path)
    (place / "film.mp4").touch()
    assert main([argument.replace("{}", str(place)) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_two_images_of_one_name_are_refused(tmp_path):
    for suffix in ("png", "jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"a.{suffix}")
    with pytest.raises(ValueError, match="the same mask a.png"):
        find_images([tmp_path])


def test_summary_reads_packed_files(place, capsys):
    assert main(["summary", f"{place}/a.mbu", "--json"]) == 0
    found = last_json(capsys)
    assert found["channels"] == 3 and found["multiple"] == 16 and len(found["layers"]) == 21
    masked = [layer for layer in found["layers"] if layer["kind"] == "masked"]
    assert all(0.2 < layer["zeros"] < 0.6 for layer in masked) and found["layers"][0]["shape"][1:] == [
        8,
        3,
        3,
    ]
    assert main(["summary", f"{place}/a.mbu"]) == 0
    assert "21 one-bit layers" in capsys.readouterr().out
