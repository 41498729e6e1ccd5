"""Writes `samples/`: a packed file of each format version, and beside it an image and the logits that belong to it.

Run once for each version, when it is the newest: `python tests/deploy/make_samples.py 2`. Older files must stay as they
are. That of version 1 is a network without joined inputs, whose description says the same in both versions but for the
list around the one input of a convolution.
"""

from __future__ import annotations

import base64
import json
import sys
import zlib
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from conftest import randomize
from torch import nn

from lightning_mbu import convert, make_plan, prepare, save
from lightning_mbu.deploy.files import _digest, _inflate
from lightning_mbu.models.unet import DoubleConv, Stem, Up

SAMPLES = Path(__file__).with_name("samples")


class SmallUNet(nn.Module):
    """One level of `MBUNet`: a concat, a transposed convolution, float streams with shortcuts."""

    def __init__(self, shortcuts: bool):
        super().__init__()
        self.stem, self.pool = Stem(3, 8, shortcuts), nn.MaxPool2d(2)
        self.down, self.up = DoubleConv(8, 8, shortcuts), Up(8, 8, shortcuts)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.stem(x)
        return self.head(self.up(self.down(self.pool(skip)), skip))


def chain() -> nn.Sequential:
    """No concat, a transposed convolution, odd channels."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 13, 3, padding=1), nn.BatchNorm2d(13),
        nn.MaxPool2d(2), nn.ConvTranspose2d(13, 8, 2, stride=2), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1),
    )  # fmt: skip


def grouped() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1, groups=2),
        nn.BatchNorm2d(16), nn.Conv2d(16, 1, 1),
    )  # fmt: skip


def write(name: str, model: nn.Module, version: int) -> None:
    x = torch.randn(1, 3, 16, 16).mul(8).round().div(8)
    packed = convert(randomize(prepare(model, make_plan(model, x))), x)
    path = save(packed, SAMPLES / f"{name}.mbu")
    with torch.no_grad():
        safetensors.torch.save_file(
            {"x": x.half(), "logits": packed(x).contiguous()}, SAMPLES / f"{name}.safetensors"
        )
    if version == 1:
        _as_version_1(path)


def _as_version_1(path: Path) -> None:
    with safetensors.safe_open(path, "pt") as file:
        description = json.loads(_inflate(file.metadata()["mbu"]))
        tensors = {name: file.get_tensor(name) for name in ("constants", "weights")}
    for node in description["nodes"]:
        if node[1].startswith("mbu.conv"):
            [node[2][0]] = node[2][0]
    description["version"] = 1
    del description["rounds_streams"]
    description["sha256"] = _digest(description, tensors)
    header = base64.b64encode(zlib.compress(json.dumps(description).encode(), 9)).decode()
    path.write_bytes(safetensors.torch.save(tensors, {"mbu": header}))


if __name__ == "__main__":
    torch.manual_seed(int(sys.argv[1]))
    SAMPLES.mkdir(exist_ok=True)
    if sys.argv[1] == "1":
        write("version-1", chain(), 1)
    else:
        write("version-2", SmallUNet(False), 2)
        write("version-2-shortcuts", SmallUNet(True), 2)
        write("version-2-groups", grouped(), 2)
