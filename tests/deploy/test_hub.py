"""Folders as the Hub keeps them: packed and trained models there and back, without a network."""

import json

import pytest
import segmentation_models_pytorch as smp
import torch

from lightning_mbu import PackedModel, convert, load_trained, make_plan, prepare, save_trained
from lightning_mbu.models import MBUNet
from lightning_mbu.prepare import plan_of


@pytest.fixture(scope="module")
def packed():
    torch.manual_seed(0)
    model = MBUNet(width=8).eval()
    images = torch.zeros(1, 3, 32, 32)
    return convert(prepare(model, make_plan(model, images)), images)


def test_a_packed_model_and_its_card(packed, tmp_path):
    folder = tmp_path / "made" / "here"
    packed.save_pretrained(folder, metrics={"iou": 0.5}, dataset="spots")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.mbu"]
    assert json.loads((folder / "config.json").read_text())["multiple"] == packed.input_spec.multiple
    card = (folder / "README.md").read_text()
    for words in (
        "PackedModel.from_pretrained",
        '"iou": 0.5',
        "spots",
        "| down1.conv2 | masked |",
        "image-segmentation",
    ):
        assert words in card, words
    assert "## Plan" not in card
    loaded = PackedModel.from_pretrained(folder)
    images = torch.randn(2, 3, 32, 48)
    assert torch.equal(loaded(images), packed(images))


def test_a_card_with_the_plan(packed, tmp_path):
    plan = make_plan(MBUNet(width=8), torch.zeros(1, 3, 32, 32))
    packed.save_pretrained(tmp_path, plan=plan)
    card = (tmp_path / "README.md").read_text()
    assert "| stem.conv1 | stem | float | 0.2 | first executed layer: reads the image |" in card
    assert f"{plan.one_bit_share:.1%} of the multiply-adds" in card and "Not given." in card


@pytest.fixture
def hub(monkeypatch):
    """What would be sent to the Hub, as name -> bytes."""
    sent = {}
    monkeypatch.setattr(
        "huggingface_hub.HfApi.create_repo",
        lambda self, repo_id, **o: type("R", (), {"repo_id": repo_id}),
    )
    monkeypatch.setattr(
        "huggingface_hub.HfApi.upload_folder",
        lambda self, folder_path, **o: sent.update(
            {path.name: path.stat().st_size for path in folder_path.iterdir()}
        ),
    )
    return sent


def test_pushing_sends_the_folder(packed, hub):
    packed.push_to_hub("someone/net")
    assert set(hub) == {"README.md", "config.json", "model.mbu"} and all(hub.values())


def test_a_trained_smp_model_and_its_plan(tmp_path):
    torch.manual_seed(0)
    options = {"encoder_depth": 3, "decoder_channels": (32, 16, 16), "encoder_weights": None}
    model = smp.Unet("resnet18", **options)
    images = torch.randn(1, 3, 32, 32)
    prepare(model, make_plan(model, images), scale=False).eval()
    folder = save_trained(model, tmp_path / "net", {"scale": False}, metrics={"iou": 0.5}, dataset="spots")
    card = (folder / "README.md").read_text()
    for words in ("load_trained(", "convert(model, torch.zeros(1, 3, 32, 32))", '"iou": 0.5', "spots", "image-segmentation",
                  "| encoder.conv1 | stem | float |", "smp alone cannot read it"):  # fmt: skip
        assert words in card, words
    assert "smp.from_pretrained" not in card
    loaded = load_trained(folder)
    assert plan_of(loaded) == plan_of(model)
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_a_float_smp_checkpoint_is_a_start(tmp_path):
    model = smp.FPN(
        "resnet18", encoder_weights=None, decoder_pyramid_channels=32, decoder_segmentation_channels=32
    )
    model.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no mbu.json, so it holds no masked-binary model"):
        load_trained(tmp_path)
    with pytest.raises(ValueError, match="FPN is not a trained smp model: it has no plan"):
        save_trained(model, tmp_path)
    start = smp.from_pretrained(tmp_path)
    prepare(start, make_plan(start, torch.zeros(1, 3, 64, 64)))
    trained = start.state_dict()
    assert all(torch.equal(trained[name], value) for name, value in model.state_dict().items())


def test_a_trained_model_goes_to_the_hub_and_back(tmp_path, hub, monkeypatch):
    model = smp.Unet("resnet18", encoder_depth=3, decoder_channels=(32, 16, 16), encoder_weights=None)
    prepare(model, make_plan(model, torch.zeros(1, 3, 32, 32))).eval()
    (tmp_path / "README.md").write_text("my own words")
    save_trained(model, tmp_path, repo_id="someone/net", private=True)
    assert set(hub) == {"README.md", "config.json", "model.safetensors", "mbu.json"} and all(hub.values())
    assert (tmp_path / "README.md").read_text() == "my own words"
    monkeypatch.setattr("lightning_mbu.pretrained.snapshot_download", lambda *a, **o: str(tmp_path))
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_trained("someone/net")(images), model(images))


@pytest.mark.parametrize("place", ["no/such/folder", "someone/net"])
def test_what_is_neither_folder_nor_repository(place, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=f"{place} is no folder here, and no repository"):
        load_trained(place)
