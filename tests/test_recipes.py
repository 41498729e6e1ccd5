"""Every recipe runs as it stands, at its smallest."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightning_mbu.scenes.float_rows import read_float

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.py"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_smoke(recipe, tmp_path, monkeypatch, capsys):
    """In this process, which has imported torch and Lightning already; a fresh one runs the next test's recipe."""
    monkeypatch.chdir(tmp_path)
    code = run_here(recipe.stem, ["--smoke", "--output", str(tmp_path / "net.mbu")], monkeypatch)
    assert not code and "bit-exact" in capsys.readouterr().out and (tmp_path / "net.mbu").exists()
    assert len(recipe.read_text().splitlines()) <= 120


@pytest.mark.filterwarnings("ignore")
def test_an_existing_project_prints_json_alone(tmp_path, monkeypatch, capsys):
    arguments = ["--smoke", "--json", "--output", str(tmp_path / "net.mbu")]
    assert not run_here("existing_project", arguments, monkeypatch)
    assert json.loads(capsys.readouterr().out)["ok"]


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_ones_own(tmp_path, monkeypatch, capsys):
    arguments = ["--smoke", "--classes", "3", "--json", "--output", str(tmp_path / "net.mbu")]
    assert not run_here("bring_your_own", [*arguments, "--trainer.max_epochs", "1"], monkeypatch)
    assert json.loads(capsys.readouterr().out)["mismatches"] == 0
    assert "class 2" in (tmp_path / "net.html").read_text()


def test_the_papers_float_row_and_the_users_logger(tmp_path):
    """Table 1 has a float row, trained with RMSprop; curves and pictures go where --trainer.logger says."""
    arguments = [
        "--smoke",
        "--preset",
        "mbunet",
        "--json",
        "--trainer.max_epochs",
        "1",
        "--data.size",
        "[32,32]",
    ]
    arguments += ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs", "--output", "net.mbu"]
    run = subprocess.run(
        [sys.executable, RECIPES[0].with_name("nuclei.py"), *arguments],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert found["mismatches"] == 0 and set(found["scores"]) == {"one-bit, packed", "float, width 16"}
    assert all(set(scores) == {"dice", "iou", "f1"} for scores in found["scores"].values())
    assert "float, width 16" in (tmp_path / "net.html").read_text()
    assert (
        list(tmp_path.glob("logs/**/metrics.csv")) and len(list(tmp_path.glob("logs/**/pictures/*.png"))) == 2
    )
    model = read_float(tmp_path / "net.float16.pt")
    assert not model.training and model(torch.zeros(1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_files_that_are_no_float_network(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_float(tmp_path / "none.pt")
    for content in (
        b"text",
        {"state_dict": {}},
        {"class_path": "lightning_mbu.models.MBUNet", "init_args": {"w": 1}},
    ):
        path = tmp_path / "wrong.pt"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(ValueError, match="wrong.pt is no float network of a recipe"):
            read_float(path)


def run_here(name, arguments, monkeypatch):
    """Runs a recipe as `python recipe arguments` does; returns its exit status, None where it does not name one."""
    recipe = str(RECIPES[0].with_name(f"{name}.py"))
    monkeypatch.setattr(sys, "argv", [recipe, *arguments])
    # Lightning 2.6 calls what jsonargparse 4.53 deprecates.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    try:
        runpy.run_path(recipe, run_name="__main__")
    except SystemExit as stopped:
        return stopped.code
    return None


@pytest.mark.parametrize(
    "name, size", [("carvana", [640, 960]), ("isic", [480, 640]), ("nuclei", [512, 512])]
)
def test_the_papers_settings(name, size, monkeypatch, capsys):
    """Table A.1 of the MBU-Net paper, and the sizes of Table A.3 in multiples of 16."""
    assert run_here(name, ["--preset", "mbunet", "--print_config"], monkeypatch) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    data, model, trainer = found["data"], found["model"], found["trainer"]
    assert data["size"] == size and data["dataset"] == name and data["batch_size"] == 2
    assert model["lr"] == 1e-5 and model["weight_decay"] == 1e-8 and not model["cosine"]
    assert trainer["max_epochs"] == 30 and trainer["gradient_clip_val"] == 1.0
    assert found["quantize"]["preset"] == "mbunet"
    network = model["model"]["init_args"]
    assert network["width"] == 64 and not network["shortcuts"]


def test_help_shows_the_recipes_own_options_too(monkeypatch, capsys):
    assert run_here("isic", ["--help"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert all(
        f"--{name}" in shown
        for name in ("output", "smoke", "preset", "float", "json", "data.root", "model.lr")
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--data.root", "nowhere"], "nowhere is not a folder. For carvana it holds train.zip"),
        (["--preset", "nothing"], "invalid choice: 'nothing'"),
        (["--data.size", "12"], "data.size"),
        (["--quantize.preset", "none"], "preset='none' is unknown"),
        (["--data.batch_size", "0"], "batch_size=0"),
        (["--model.optimizer", "sgd"], "optimizer='sgd' is unknown"),
        (["--smoke", "--data.size", "[100, 100]"], "100x100"),
        (["--smoke", "--output", "no/net.mbu"], "folder of --output"),
        (["--smoke", "--preset", "mbunet", "--float", "0"], "--float 0: "),
    ],
)
def test_a_mistake_gets_no_traceback(arguments, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code = run_here("carvana", arguments, monkeypatch)
    assert code and words in (code if isinstance(code, str) else capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--data.data", "nowhere"], "nowhere"),
        (["--data.size", "0"], "size"),
        (["--quantize.preset", "none"], "preset='none' is unknown"),
        (["--smoke", "--output", "no/net.mbu"], "folder of --output no/net.mbu does not exist"),
    ],
)
def test_nor_does_one_in_an_existing_project(arguments, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code = run_here("existing_project", ["--model.weights", "null", *arguments], monkeypatch)
    assert code and words in (code if isinstance(code, str) else capsys.readouterr().err)
