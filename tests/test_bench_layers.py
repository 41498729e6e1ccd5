"""The layer table of `mbu bench`: every packed convolution of every network, what it does and how fast."""

from __future__ import annotations

import pytest
import torch

from lightning_mbu.bench import show
from lightning_mbu.bench.layers import measure_layers
from lightning_mbu.bench.models import twins
from lightning_mbu.models import MBUNet


def test_layers_of_a_network(monkeypatch):
    monkeypatch.setattr("lightning_mbu.bench.models.find_model", lambda name, arguments: MBUNet(width=8))
    _, _, packed = twins("mbunet", 3)
    found = measure_layers(packed, torch.randn(1, 3, 64, 64), repeats=1)
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert len(layers) == len(packed.layers) == 21
    # 64 x 64 outputs, 8 to 8 channels, 9 taps; a transposed layer counts its 4 x 4 inputs, 4 taps.
    assert layers["stem.conv2"]["macs"] == 64 * 64 * 8 * 8 * 9
    assert layers["up1.transpose"]["macs"] == 4 * 4 * 64 * 64 * 4
    assert layers["up1.transpose"]["shape"] == "up 2x2 64->64 @ 8x8"
    assert layers["stem.conv2"]["output"] == "bits"
    assert layers["stem.conv2"]["weights"] == "masked" and layers["up4.transpose"]["weights"] in (
        "masked",
        "binary",
    )
    assert {layer["weights"] for layer in found["layers"]} == {"masked", "binary"}
    assert min(found["ceilings"].values()) > 0 and found["network_ms"] > 0


@pytest.mark.parametrize(
    "name, outputs",
    [
        ("mbunet-shortcuts", {"bfloat16", "float"}),
        ("mbunet-int8-stream", {"int8", "float"}),
        ("unet-classic", {"bits", "float"}),
        ("unet-resnet34", {"bits", "float"}),
    ],
)
def test_layers_of_every_network_that_has_a_name(name, outputs):
    _, _, packed = twins(name, 3, arguments={} if name == "unet-resnet34" else {"width": 8})
    found = measure_layers(packed, torch.randn(1, 3, 64, 64), repeats=1)
    assert [layer["name"] for layer in found["layers"]] == [layer.name for layer in packed.layers]
    assert {layer["output"] for layer in found["layers"]} == outputs
    table = "\n".join(" ".join(row) for row in show.layer_rows(found))
    assert all(layer["name"] in table and layer["shape"] in table for layer in found["layers"])
