"""Every recipe runs as it stands, at its smallest."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.py"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_smoke(recipe, tmp_path):
    run = subprocess.run(
        [sys.executable, recipe, "--smoke", "--output", tmp_path / "net.mbu"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert "bit-exact" in run.stdout and (tmp_path / "net.mbu").exists()
    assert len(recipe.read_text().splitlines()) <= 120


def run_here(name, arguments, monkeypatch):
    """Runs a recipe in this process, which has imported torch and Lightning already; returns its exit status."""
    recipe = str(RECIPES[0].with_name(f"{name}.py"))
    monkeypatch.setattr(sys, "argv", [recipe, *arguments])
    # Lightning 2.6 calls what jsonargparse 4.53 deprecates.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(recipe, run_name="__main__")
    return stopped.value.code


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


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--data.root", "nowhere"], "nowhere is not a folder. For carvana it holds train.zip"),
        (["--preset", "nothing"], "invalid choice: 'nothing'"),
        (["--data.size", "12"], "data.size"),
    ],
)
def test_a_mistake_gets_no_traceback(arguments, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code = run_here("carvana", arguments, monkeypatch)
    assert code and words in (code if isinstance(code, str) else capsys.readouterr().err)
