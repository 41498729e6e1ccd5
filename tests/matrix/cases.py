"""The cases of the matrix: architecture, encoder, options."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn


@dataclass(frozen=True)
class Case:
    """One line of pairs.txt.

    Attributes:
        pair: `architecture/encoder`.
        size: height and width of the images, pixels.
        quick: checked by `make test`, compiled with Inductor.
        options: of the architecture.
        training: of `MBUQuantize`; in the file under that name among the options.
    """

    pair: str
    size: int
    quick: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The pair and its options; unique."""
        options = (f"{name}={json.dumps(value)}" for name, value in self.options.items())
        training = (f"MBUQuantize({name}={value})" for name, value in self.training.items())
        return " ".join([self.pair, *options, *training])

    def build(self) -> nn.Module:
        """The float network, randomly initialised."""
        architecture, encoder = self.pair.split("/")
        options = {"dynamic_img_size": True} if "vit" in encoder else {}
        return getattr(smp, architecture)(encoder, encoder_weights=None, **options, **self.options)


def read_cases() -> list[Case]:
    """Every line of pairs.txt, in order."""
    cases = []
    for line in (Path(__file__).parent / "pairs.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        words, brace, options = line.partition("{")
        pair, size, *quick = words.split()
        read = json.loads(brace + options or "{}")
        training = read.pop("MBUQuantize", {})
        cases.append(Case(pair, int(size), quick == ["quick"], read, training))
    return cases
