"""write_page: the report page of a packed network, whatever trained it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .deploy import PackedModel, Verification
from .deploy.contents import contents
from .live_pictures import images_and_masks, picture
from .report import LayerBar, write_report
from .timing import conditions
from .training_log import curves, read_log

_PICTURES = 5


def layer_bars(packed: PackedModel) -> list[LayerBar]:
    """The one-bit layers of `packed`, in executed order."""
    return [LayerBar(x.name, x.kind, x.zeros, x.bytes, x.output) for x in contents(packed).layers]


def write_page(
    path: str | Path,
    packed: PackedModel,
    check: Verification,
    *,
    batch: Any = None,
    scores: Mapping[str, Any] | None = None,
    log: str | Path | None = None,
) -> Path:
    """One self-contained HTML page: scores, sizes, errors in colour, curves through the phases, layers, conditions.

    Args:
        path: of the HTML file, which is replaced in one step.
        packed: the network, as `convert` gave it.
        check: what `verify` found out about it.
        batch: images and masks to draw, in one of the forms that `LogPictures` takes; the first five are.
        scores: name -> number, such as `trainer.callback_metrics`; those of `MBUQuantize` itself are left out.
        log: the `metrics.csv` that Lightning's `CSVLogger` has written.

    Returns:
        The absolute path of the page.

    Raises:
        FileNotFoundError: there is no such log.
        ValueError: the log is no table of epochs.
        MisconfigurationException: the batch has another form.
    """
    epochs = read_log(log) if log is not None else []
    named = (scores or {}).items()
    cards = [(name, f"{float(value):.3f}") for name, value in named if not name.startswith("mbu/")]
    cards += [("wrong bits", str(check.mismatches)), ("size", f"{check.packed_bytes / 1e6:.3f} MB"),
              ("smaller than float", f"{check.float_bytes / check.packed_bytes:.1f}x")]  # fmt: skip
    pictures = []
    if batch is not None:
        images, masks = (tensor[:_PICTURES].cpu() for tensor in images_and_masks(batch))
        with torch.no_grad():
            pictures = [picture(*row) for row in zip(images, masks, packed(images), strict=True)]
    return write_report(
        path, title=Path(path).stem, summary=cards, curves=curves(epochs), pictures=pictures, layers=layer_bars(packed),
        conditions={
            **({"epochs": len(epochs)} if epochs else {}),
            **conditions(torch.device("cpu"), torch.get_num_threads()),
        },
    )  # fmt: skip
