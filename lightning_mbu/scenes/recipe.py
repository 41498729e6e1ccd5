"""run_recipe: what the recipes of the data sets share, from the command line to the proven, saved network."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LightningCLI
from rich import print
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassConfusionMatrix

from ..callback import MBUQuantize
from ..deploy import convert, save, verify
from ..scores import Scores, scores
from .data import SceneData
from .labels import IGNORE
from .module import LitScenes
from .trees import write_tree

_SMOKE = {  # smallest sizes, on a generated data set
    "data.size": [64, 96], "data.batch_size": 2, "data.workers": 0, "trainer.max_epochs": 4,
    "trainer.accelerator": "cpu", "trainer.enable_progress_bar": False,
}  # fmt: skip


def run_recipe(dataset: str, defaults: dict[str, Any], arguments: list[str] | None = None) -> None:
    """Trains, packs, proves, scores and saves; `--help` lists every setting.

    All settings are LightningCLI's: `--data.root`, `--model.lr`, `--trainer.max_epochs`, `--config file.yaml`.
    Beside them, `--output` names the packed file and `--smoke` runs on a generated data set.

    Args:
        dataset: name of the data set (`find_pairs`).
        defaults: LightningCLI settings by dotted name, of which the command line may overrule any.
        arguments: the command line; None takes that of the process.

    Raises:
        SystemExit: the packed network differs from the trained one; nothing is saved then.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--output", default=f"{dataset}.mbu")
    parser.add_argument("--smoke", action="store_true")
    options, rest = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        # Both name the data set, so that a configuration file is complete without the recipe.
        settings = {
            "data.dataset": dataset, "model.dataset": dataset, "trainer.logger": False,
            "trainer.enable_checkpointing": False, **defaults,
        }  # fmt: skip
        if options.smoke:
            network = settings["model.model"]
            narrow = {**network, "init_args": {**network["init_args"], "width": 16}}
            settings |= {"data.root": str(write_tree(dataset, folder)), "model.model": narrow, **_SMOKE}
        cli = _Command(settings, rest)
        _train_and_pack(cli.model, cli.datamodule, cli.trainer, Path(options.output))


class _Command(LightningCLI):
    """LightningCLI with defaults from the recipe and `MBUQuantize` as the option group `quantize`."""

    def __init__(self, settings: dict[str, Any], arguments: list[str]):
        self.settings = settings
        # Its arguments are those of the command line, but for the two that are ours.
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        super().__init__(
            LitScenes,
            SceneData,
            run=False,
            seed_everything_default=0,
            args=arguments,
            save_config_callback=None,
        )

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_lightning_class_args(MBUQuantize, "quantize")
        parser.set_defaults({"quantize.preset": "bisegunet", **self.settings})


def _train_and_pack(module: LitScenes, data: SceneData, trainer: L.Trainer, output: Path) -> None:
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    print(module.scores)
    network = module.model.cpu().eval()
    images = next(iter(data.test_dataloader()))[0][:4]
    packed = convert(network, images[:1])
    check = verify(network, packed, images)
    print(check)
    if not check.ok:
        raise SystemExit("the packed network differs from the trained one; it was not saved")
    print(f"saved {save(packed, output)}")


@torch.no_grad()
def score_network(network: nn.Module, loader: DataLoader, names: tuple[str, ...]) -> Scores:
    """Scores of `network`, image -> logits, over `loader`."""
    confusion = MulticlassConfusionMatrix(len(names), ignore_index=IGNORE)
    for images, classes in loader:
        confusion.update(network(images), classes)
    return scores(confusion.compute(), names)
