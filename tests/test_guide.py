"""Every code block of the README and of docs/*.md runs.

Python blocks of a page run one after the other, in one namespace and one folder. Lines of `sh` blocks run in that
folder, which holds what they name (`last.ckpt`, `val/`, `photos/`, `film.mp4`), with two reductions: images of 64 pixels,
and a resnet18 in the place of the resnet34. Long work is not done twice: commands in `ELSEWHERE` have tests of their own
and are only parsed here, recipes print their settings instead of training, `make` must know the target. A block below
`<!-- run by tests/... -->` is that test's.
"""

import argparse
import itertools
import re
import runpy
import shlex
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image

from lightning_mbu import make_plan, prepare
from lightning_mbu.checkpoints import store_with_weights
from lightning_mbu.cli import _parser, main
from lightning_mbu.commands.train import recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {"demo", "bench", "study", "sweep", "ablation", "report", "export"}
NOT_OURS = {"git", "cd", "pip"}
SMALLER = {"Unet/resnet34": "Unet/resnet18", "512": "64"}
BLOCK = re.compile(r"(?:<!-- run by (\S+) -->\n)?^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter:UserWarning"),
]


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the commands of the guide name: a checkpoint, images, a video."""
    folder = tmp_path_factory.mktemp("guide")
    rng = np.random.default_rng(0)
    for place in ("val", "photos"):
        (folder / place).mkdir()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / place / "one.png")
    torch.manual_seed(0)
    module = L.LightningModule()
    module.net = smp.Unet("resnet18", encoder_weights=None)
    plan = make_plan(module.net, torch.zeros(1, 3, 64, 64))
    prepare(module.net, plan)
    store_with_weights(module, module.net, plan, {})
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "last.ckpt")
    return folder


def film(path):
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'lightning-mbu[video]'")
    from lightning_mbu.commands.video import VideoWriter

    writer = VideoWriter(path, 10)
    for k in range(2):
        writer.add(np.full((64, 64, 3), 100 * k, np.uint8))
    writer.close(complete=True)


def run_mbu(words, monkeypatch):
    """An `mbu` line: run, or parsed where `ELSEWHERE` or a recipe would take long."""
    words = [SMALLER.get(word, word) for word in words]
    if "film.mp4" in words:
        film(Path("film.mp4"))
    if words[0] == "train" and len(words) > 1:
        run_recipe(recipes()[words[1]], words[2:], monkeypatch)
    elif words[0] in ELSEWHERE:
        assert isinstance(_parser().parse_args(words), argparse.Namespace)
    else:
        assert main(words) == 0, words


def run_recipe(file, words, monkeypatch):
    """Recipes of LightningCLI print their settings, others their help: both read all of the line."""
    last = "--print_config" if "run_recipe" in file.read_text(encoding="utf-8") else "--help"
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setattr(sys, "argv", [str(file), *words, last])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(file), run_name="__main__")
    assert stopped.value.code == 0, words


def run_line(line, monkeypatch):
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # settings in front of a command
        del words[0]
    for _, group in itertools.groupby(words, lambda word: word == "&&"):
        first, *rest = group
        command = shlex.join([first, *rest])
        if first == "&&":
            continue
        if first == "mbu":
            run_mbu(rest, monkeypatch)
        elif first == "python" and rest[0].startswith("recipes/"):
            run_recipe(ROOT / rest[0], rest[1:], monkeypatch)
        elif first == "python":
            assert (ROOT / rest[0]).is_file() or rest[0] == "-m", command
        elif first == "make":
            assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
        else:
            assert first in NOT_OURS, f"{command}: no rule runs this; write one, or name the test that does"


# Lightning says that it logs to CSV where TensorBoard is not installed.
@pytest.mark.filterwarnings("ignore:Starting from v1.9.0")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_page(page, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names: dict = {"__name__": "page", "torch": torch}
    for elsewhere, language, text in blocks(page):
        if elsewhere:
            assert (ROOT / elsewhere).is_file(), elsewhere
        elif language == "python":
            exec(compile(text, str(page), "exec"), names)  # noqa: S102 - our own pages
        else:
            for line in text.replace("\\\n", " ").splitlines():
                run_line(line, monkeypatch)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_fence_has_a_language_that_is_known():
    for page in PAGES:
        opened = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), re.MULTILINE)[::2]
        assert set(opened) <= {"python", "sh", "", "json", "diff"}, page
