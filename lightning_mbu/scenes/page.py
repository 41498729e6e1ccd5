"""What the report pages of recipes and of `mbu report` share: pictures, points of other networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..comparison import Comparison
from ..report import ClassPictureRow, ParetoPoint, PictureRow
from .data import SceneDataset

_PICTURES = 5


@torch.no_grad()
def pictures(network: Callable[[Tensor], Tensor], split: SceneDataset) -> list[PictureRow | ClassPictureRow]:
    """A few images of `split`, evenly spread; false positives and negatives where there are two classes."""
    rows: list[PictureRow | ClassPictureRow] = []
    for index in np.linspace(0, len(split) - 1, min(_PICTURES, len(split))).astype(int):
        x, classes = split[int(index)]
        truth = classes.numpy().astype(np.uint8)
        found = network(x[None])[0].argmax(0).numpy().astype(np.uint8)
        path = split.pairs[int(index)][0]
        with Image.open(path) as opened:
            image = np.array(opened.convert("RGB").resize(truth.shape[::-1], Image.Resampling.BILINEAR))
        if len(split.labels.names) == 2:
            rows.append(PictureRow(image, truth == 1, found == 1, name=path.stem[:24]))
        else:
            rows.append(ClassPictureRow(image, truth, found, path.stem[:24]))
    return rows


def read_points(path: Path, score: str) -> list[ParetoPoint]:
    """The networks in the JSON of another `mbu report`, or of `mbu study pareto`.

    Args:
        path: `report.json`, or `pareto-*.json`.
        score: name of the score in a report, `"dice"` or `"miou"`; a study's is `"test/dice"` or `"test/iou"`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: neither of the two, or without times and scores.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "runs" in content:
            key = "test/dice" if score == "dice" else "test/iou"
            return [
                ParetoPoint(f"{path.stem}: {name}", run["ms"], run[key], not name.startswith("float"))
                for name, run in content["runs"].items()
            ]
        speed = Comparison.from_dict(content["speed"])
        return [ParetoPoint(path.stem, speed.timings[speed.best_packed].median, content[score], True)]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is neither the JSON of mbu report nor that of mbu study pareto: {error!r}"
        ) from error
