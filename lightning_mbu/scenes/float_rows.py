"""Float networks beside a one-bit one: the paper's full-precision row, and narrower ones, the honest rivals.

A recipe trains and scores them on the same data with the same settings and writes each into a file;
`mbu report --float file` scores and times them beside the packed network.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from torch import nn

from ..demo.train import EpochLog
from ..model_names import find_model
from ..report import ReportTable
from ..scores import Scores
from ..training_log import Epochs
from .data import SceneData
from .module import LitScenes


@dataclass(frozen=True)
class Row:
    """A trained network in the table of a recipe.

    Attributes:
        name: such as `"float, width 16"`.
        scores: of the test images.
        table1: Dice, IoU and F1 as in Table 1 of MBU-Net, where there are two classes.
        megabytes: of its weights.
        epochs: what training logged.
    """

    name: str
    scores: Scores
    table1: Mapping[str, float]
    megabytes: float
    epochs: Epochs = ()

    @property
    def values(self) -> dict[str, float]:
        """Name -> score; those of Table 1, or mIoU and pixel accuracy."""
        return dict(self.table1) or {"mIoU": self.scores.miou, "accuracy": self.scores.accuracy}


def table(rows: list[Row]) -> ReportTable:
    """The rows as the paper's Table 1 has them."""
    names = list(rows[0].values)
    return ReportTable(
        "One-bit and float, the same data and settings",
        ("network", *names, "MB"),
        [(row.name, *(f"{row.values[name]:.3f}" for name in names), f"{row.megabytes:.3f}") for row in rows],
        "Test images. A float network of equal latency is the honest rival: mbu report --float times these.",
    )


def train_float(
    width: int, network: Mapping[str, Any], module: Mapping[str, Any], trainer: Mapping[str, Any], data: SceneData,
    output: Path,
) -> Row:  # fmt: skip
    """Trains the float network of another width, scores it, and writes it into a file.

    Args:
        width: of the network.
        network: its `class_path` and `init_args`, as in a configuration file.
        module: arguments of `LitScenes` but for the network.
        trainer: arguments of the Trainer.
        data: the data set.
        output: file to write; read by `read_float`.

    Raises:
        SystemExit: as `float_network`.
    """
    spec, model = float_network(width, network)
    lit = LitScenes(model, **module)
    log = EpochLog("", Console(), printing=False)
    fit = L.Trainer(**{**trainer, "logger": False, "callbacks": [log]})
    fit.fit(lit, data)
    fit.test(lit, data, verbose=False)
    assert lit.scores is not None
    weights = model.cpu().eval().state_dict()
    torch.save({**spec, "state_dict": weights}, output)
    size = sum(t.numel() * t.element_size() for t in weights.values()) / 1e6
    return Row(f"float, width {width}", lit.scores, lit.table1, size, log.epochs)


def float_network(width: int, network: Mapping[str, Any]) -> tuple[dict[str, Any], nn.Module]:
    """The network of another width, untrained, and its `class_path` and `init_args`.

    Raises:
        SystemExit: it has no width, or not this one.
    """
    spec = {"class_path": network["class_path"], "init_args": {**network["init_args"], "width": width}}
    try:
        return spec, build(spec)
    except (TypeError, ValueError) as error:
        raise SystemExit(
            f"--float {width}: {spec['class_path']} cannot be built with this width: {error}"
        ) from error


def build(spec: Mapping[str, Any]) -> nn.Module:
    """The network that a `class_path` with `init_args` names."""
    return find_model(":".join(spec["class_path"].rsplit(".", 1)), dict(spec["init_args"]))


def read_float(path: Path) -> nn.Module:
    """The float network in a file that `train_float` has written, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}; the recipes write one for each width of their --float."
        )
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        model = build(stored)
        model.load_state_dict(stored["state_dict"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no float network of a recipe ({str(error).splitlines()[0]}); the recipes write one for each "
            "width of their --float."
        ) from error
    return model.eval()
