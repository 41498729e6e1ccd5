"""What a Trainer logged, epoch by epoch, as the charts of the report page."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from .drawing import Curve, PhaseBand
from .schedule import PHASES

Epochs = Sequence[Mapping[str, float]]  # name -> value; epochs that logged nothing of a name leave it out

# Title -> names that belong into one chart, or beginnings of names that end in "/" or "-".
_CHARTS = {
    "Loss": ("train/loss", "loss", "train_loss", "val/loss", "val_loss"),
    "Scores": ("val/",),
    "Learning rate": ("lr", "lr-", "mbu/lr"),
    "Weights that changed state in the epoch": ("mbu/flip_ratio",),
    "Channels that say nothing": ("mbu/constant_channels", "mbu/dead_channels"),
    "Imbalance of activation bits, and shares without a gradient": ("mbu/imbalance", "mbu/saturated_inputs", "mbu/saturated_weights"),
    "One-bit share of the layers' weights, and present share of the masked": ("mbu/binary_fraction", "mbu/mask_density"),
}  # fmt: skip


def read_log(path: str | Path) -> list[dict[str, float]]:
    """The epochs of a `metrics.csv` that Lightning's `CSVLogger` has written; the last value of each epoch counts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no table with an epoch in each line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no log {path}; train with a CSVLogger, and take its metrics.csv.")
    epochs: dict[int, dict[str, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                values = {
                    k: float(v) for k, v in row.items() if v not in ("", None) and k not in ("epoch", "step")
                }
                epochs.setdefault(int(float(row["epoch"])), {}).update(values)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} is no metrics.csv of Lightning's CSVLogger: {error!r}") from error
    if not epochs:
        raise ValueError(f"{path} holds no epoch yet.")
    return [epochs.get(number, {}) for number in range(max(epochs) + 1)]


def phase_bands(epochs: Epochs) -> tuple[PhaseBand, ...]:
    """Stretches of one phase, from the logged `mbu/phase`; epoch `k` reaches from `k - 1` to `k`."""
    bands: list[PhaseBand] = []
    for number, values in enumerate(epochs):
        if "mbu/phase" not in values:
            continue
        name = PHASES[int(values["mbu/phase"])]
        if bands and bands[-1].label == name:
            bands[-1] = PhaseBand(name, bands[-1].start, number + 1)
        else:
            bands.append(PhaseBand(name, bands[-1].end if bands else number, number + 1))
    return tuple(bands)


def curves(epochs: Epochs) -> list[Curve]:
    """Loss, scores, learning rate, health of the layers and one-bit share over epochs, each where it was logged."""
    names = list(dict.fromkeys(name for values in epochs for name in values))
    bands, found = phase_bands(epochs), []
    for title, wanted in _CHARTS.items():
        series: dict[str, Sequence[tuple[float, float]]] = {
            name: [(k, values[name]) for k, values in enumerate(epochs, 1) if name in values]
            for name in names
            if any(name == w or (w[-1] in "/-" and name.startswith(w)) for w in wanted)
            and not (title == "Scores" and name.endswith("loss"))
        }
        if series:
            found.append(Curve(title, series, "epoch", "", bands))
    return found
