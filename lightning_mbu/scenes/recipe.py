"""run_recipe: what the recipes of the data sets share, from the command line to the proven, saved network."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import lightning as L
import rich
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningCLI
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassConfusionMatrix

from ..callback import MBUQuantize
from ..demo.train import EpochLog
from ..deploy import PackedModel, Verification, convert, save, verify
from ..live_pictures import LogPictures
from ..page import layer_bars
from ..report import ReportTable, write_report
from ..scores import Scores, scores
from ..timing import conditions
from ..training_log import curves
from .data import SceneData
from .float_rows import Row, float_network, table, train_float
from .labels import IGNORE, layout_of
from .layouts import SPLITS
from .module import LitScenes
from .page import pictures
from .trees import write_tree

_SMOKE = {  # smallest sizes, on a generated data set
    "data.size": [64, 96], "data.batch_size": 2, "data.workers": 0, "trainer.max_epochs": 4,
    "trainer.accelerator": "cpu", "trainer.enable_progress_bar": False,
}  # fmt: skip

_CARDS = {"dice": "Dice, mean over images", "iou": "IoU, mean over images", "f1": "F1 of all pixels"}

# What `--preset` names beside a recipe's own defaults. mbunet: Table A.1 of the MBU-Net paper for its quantized networks
# (Adam; the momentum of 0.9 is that of RMSprop, which trains the float one beside it), its network, and images as they
# are.
PRESETS: dict[str, dict[str, Any]] = {
    "mbunet": {
        "model.model": {"class_path": "lightning_mbu.models.MBUNet", "init_args": {"classes": 2, "width": 64}},
        "model.lr": 1e-5, "model.weight_decay": 1e-8, "model.cosine": False, "model.smoothing": 0.0,
        "data.batch_size": 2, "data.augment": False, "trainer.max_epochs": 30, "trainer.gradient_clip_val": 1.0,
        "quantize.preset": "mbunet",
    },
}  # fmt: skip
# Of the float networks that a preset trains beside the one-bit one.
_FLOAT = {"mbunet": {"optimizer": "rmsprop"}}


def run_recipe(
    dataset: str,
    defaults: dict[str, Any],
    arguments: list[str] | None = None,
    presets: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Trains, packs, proves, scores and saves; `--help` lists every setting.

    All settings are LightningCLI's: `--data.root`, `--model.lr`, `--trainer.max_epochs`, `--config file.yaml`.
    Beside them, `--output` names the packed file, `--smoke` runs on a generated data set, `--preset` takes a paper's
    settings in the place of the recipe's own, `--float` trains float networks of other widths as well, and `--json`
    prints the results.

    Args:
        dataset: name of the data set (`find_pairs`).
        defaults: LightningCLI settings by dotted name, of which the command line may overrule any.
        arguments: the command line; None takes that of the process.
        presets: names in `PRESETS` that `--preset` offers, each with what this data set adds to it.

    Raises:
        SystemExit: the data set is missing or half extracted, or the packed network differs from the trained one;
            nothing is saved then.
    """
    parser = _parser(dataset, presets or {})
    options, rest = parser.parse_known_args(arguments)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(sys.stderr) if options.json else nullcontext(),
    ):
        # Both name the data set, so that a configuration file is complete without the recipe.
        settings = {
            "data.dataset": dataset, "model.dataset": dataset, "trainer.logger": False,
            "trainer.enable_checkpointing": False, **defaults,
        }  # fmt: skip
        if name := getattr(options, "preset", None):
            settings |= {**PRESETS[name], **(presets or {})[name]}
        if options.smoke:
            network = settings["model.model"]
            narrow = {**network, "init_args": {**network["init_args"], "width": 16}}
            settings |= {"data.root": str(write_tree(dataset, folder)), "model.model": narrow, **_SMOKE}
        try:
            cli = _Command(settings, rest)
            results = _train_and_pack(cli, options.float, _FLOAT.get(name or ""), Path(options.output))
        except (ValueError, OSError, MisconfigurationException) as error:
            if os.environ.get("MBU_TRACEBACK"):
                raise
            raise SystemExit(f"{dataset}: {error}") from None
    if options.json:
        print(json.dumps(results))


def _parser(dataset: str, presets: dict[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        add_help=False, usage="%(prog)s [options of the recipe] [settings of LightningCLI, below]"
    )
    parser.add_argument(
        "--output", default=f"{layout_of(dataset)}.mbu", help="packed file; the page goes beside it"
    )
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, on a generated data set")
    if presets:
        parser.add_argument(
            "--preset", choices=sorted(presets), help="a paper's settings, its float network beside it"
        )
    parser.add_argument(
        "--float", type=int, nargs="*", metavar="WIDTH", help="also train float networks of these widths"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


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


def _train_and_pack(
    cli: _Command, widths: list[int] | None, paper: dict[str, Any] | None, output: Path
) -> dict[str, Any]:
    """Trains, packs, proves, saves; float networks after that.

    Args:
        cli: what was asked for.
        widths: of the float networks; None trains that of the one-bit one's own width where a paper's preset asks.
        paper: how that preset trains float networks.
        output: file of the packed network.
    """
    module, data, trainer = cli.model, cli.datamodule, cli.trainer
    spec = {"init_args": {}, **cli.config["model"]["model"].as_dict()}
    if widths is None:
        widths = [spec["init_args"]["width"]] if paper and "width" in spec["init_args"] else []
    for split in SPLITS:  # before hours of training and not after
        data.split(split)
    for width in widths:
        float_network(width, spec)
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder of --output {output} does not exist; create it.")
    log = EpochLog("", Console(), printing=False)
    # Behind MBUQuantize, whose numbers the log keeps and whose network the pictures show.
    trainer.callbacks += [log, LogPictures()]  # type: ignore[attr-defined]
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    rich.print(module.scores)
    trained = module.model.cpu().eval()
    images = next(iter(data.test_dataloader()))[0][:4]
    packed = convert(trained, images[:1])
    check = verify(trained, packed, images)
    rich.print(check)
    if not check.ok:
        raise SystemExit("the packed network differs from the trained one; it was not saved")
    rich.print(f"saved {save(packed, output)}")
    rows = [Row("one-bit, packed", module.scores, module.table1, check.packed_bytes / 1e6, log.epochs)]
    settings = {key: value for key, value in cli.config["model"].as_dict().items() if key != "model"}
    for width in widths:
        L.seed_everything(cli.config["seed_everything"], verbose=False)
        path = output.with_suffix(f".float{width}.pt")
        trained_as = {**settings, **(paper or {})}
        rows.append(
            train_float(width, spec, trained_as, dict(cli.config_init["trainer"].items()), data, path)
        )
        rich.print(f"saved {path}")
    for row in rows if module.table1 or widths else ():
        rich.print(f"{row.name}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.values.items()))
    page = _write_page(cli, rows, packed, check, output.with_suffix(".html"))
    rich.print(f"report {page}")
    return {
        "output": str(output), "report": str(page), "mismatches": check.mismatches,
        "packed_bytes": check.packed_bytes, "float_bytes": check.float_bytes,
        "scores": {row.name: row.values for row in rows},
    }  # fmt: skip


def _write_page(
    cli: _Command, rows: list[Row], packed: PackedModel, check: Verification, output: Path
) -> Path:
    """Scores, curves, pictures and layers of a run; `mbu report` adds speed."""
    module, data, epochs = cli.model, cli.datamodule, rows[0].epochs
    assert module.scores is not None
    cards = [(_CARDS[name], f"{value:.3f}") for name, value in module.table1.items()] or [
        ("mIoU", f"{module.scores.miou:.1%}")
    ]
    cards += [("wrong bits", str(check.mismatches)), ("size", f"{check.packed_bytes / 1e6:.3f} MB"),
              ("smaller than float", f"{check.float_bytes / check.packed_bytes:.1f}x")]  # fmt: skip
    classes = ReportTable(
        "Classes of the test images", ("class", "IoU", "Dice", "share of pixels"), module.scores.rows(),
        "Scored by the trained network; the packed one computes the same bits. Speed: mbu report.",
    )  # fmt: skip
    height, width = data.size
    settings = {
        "data": f"{data.dataset}, {height}x{width}, {len(data.split('train'))} training and "
        f"{len(data.split('test'))} test images",
        "epochs": len(epochs), "batch size": data.batch_size, "learning rate": module.lr,
    }  # fmt: skip
    return write_report(
        output, title=output.stem, summary=cards, tables=[*([table(rows)] if rows[1:] else []), classes],
        curves=curves(epochs),
        pictures=pictures(packed, data.split("test")), layers=layer_bars(packed),
        conditions={**settings, **conditions(torch.device("cpu"), torch.get_num_threads())},
    )  # fmt: skip


@torch.no_grad()
def score_network(network: nn.Module, loader: DataLoader, names: tuple[str, ...]) -> Scores:
    """Scores of `network`, image -> logits, over `loader`."""
    confusion = MulticlassConfusionMatrix(len(names), ignore_index=IGNORE)
    for images, classes in loader:
        confusion.update(network(images), classes)
    return scores(confusion.compute(), names)
