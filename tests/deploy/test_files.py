import base64
import json
import os
import zlib

import pytest
import safetensors.torch
import torch

from lightning_mbu import convert, load, save, verify
from lightning_mbu.deploy.files import (
    _digest,
    _inflate,
    _Reader,
    _take_weight,
    _to_bytes,
    _weight_bytes,
    packed_size,
)
from lightning_mbu.deploy.graph_json import graph_from_json
from lightning_mbu.models import MBUNet


@pytest.fixture
def packed(quantized):
    return convert(quantized(MBUNet(width=8)), torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("shortcuts", [False, True])
@torch.no_grad()
def test_round_trip(quantized, tmp_path, shortcuts):
    model = quantized(MBUNet(width=20, shortcuts=shortcuts))
    packed = convert(model, torch.randn(1, 3, 32, 32))
    path = save(packed, tmp_path / "net.mbu")
    assert path.stat().st_size == packed_size(packed)
    loaded = load(path)
    x = torch.randn(2, 3, 48, 32)
    assert torch.equal(loaded(x), packed(x))
    assert verify(model, loaded, x).ok
    assert (loaded.layers, loaded.input_spec) == (packed.layers, packed.input_spec)
    again = save(loaded, tmp_path / "again.mbu")
    assert torch.equal(load(again)(x), packed(x))
    assert sorted(os.listdir(tmp_path)) == ["again.mbu", "net.mbu"]


@torch.no_grad()
def test_a_model_that_meets_another_kernel_is_tiled_again(packed):
    x = torch.randn(1, 3, 32, 32)
    expected = packed(x)
    for layer in packed.layers:
        header = getattr(packed.graph_module, layer.tiles)
        header[5] = 1 - header[5]  # as if the model came from a process whose kernel reads the other layout
    with pytest.raises(RuntimeError, match="weight was tiled in the layout"):
        packed(x)
    packed.tile_weights()
    assert torch.equal(packed(x), expected)


def test_file_is_twenty_times_smaller(quantized):
    model = quantized(MBUNet(width=32))
    packed = convert(model, torch.randn(1, 3, 32, 32))
    assert verify(model, packed, torch.randn(1, 3, 32, 32)).float_bytes > 20 * packed_size(packed)


def test_loading_needs_no_training_package(packed, tmp_path):
    import subprocess
    import sys

    save(packed, tmp_path / "net.mbu")
    code = (
        "import sys, torch, lightning_mbu.deploy.files as files;"
        f"print(files.load(r'{tmp_path / 'net.mbu'}')(torch.zeros(1, 3, 32, 32)).shape);"
        "print('segmentation_models_pytorch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["torch.Size([1, 1, 32, 32])", "False"]


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (3, 5, 3, 3)])
def test_bits_in_bytes(shape):
    bits = torch.rand(shape) < 0.5
    assert torch.equal(_Reader(_to_bytes(bits)).take_bits(bits.numel()), bits.flatten())


@pytest.mark.parametrize("kind, low", [("masked", -1), ("binary", 0)])
def test_weights_in_bytes(kind, low):
    weight = torch.randint(low, 2, (5, 3, 3, 7), dtype=torch.int8)
    weight = weight if kind == "masked" else weight * 2 - 1
    assert torch.equal(_take_weight(_Reader(_weight_bytes(weight, kind)), [5, 3, 3, 7], kind), weight)


def rewrite(path, change):
    """Changes the description inside a packed file, leaving its checksum as it was."""
    with safetensors.safe_open(path, "pt") as file:
        description = json.loads(_inflate(file.metadata()["mbu"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(description)
    header = base64.b64encode(zlib.compress(json.dumps(description).encode())).decode()
    path.write_bytes(safetensors.torch.save(tensors, {"mbu": header}))


def test_newer_version(packed, tmp_path):
    path = save(packed, tmp_path / "net.mbu")
    rewrite(path, lambda d: d.update(version=3))
    with pytest.raises(ValueError, match="format version 3; this lightning-mbu reads up to 2. Upgrade it"):
        load(path)


def test_files_of_version_1_are_read(tmp_path):
    """A network of three nodes as version 1 wrote it: pack -> one convolution that names its one input."""
    weight = torch.randint(-1, 2, (5, 3, 3, 40), dtype=torch.int8)  # [OC, KH, KW, C]
    threshold = torch.randn(40)
    options = {"map": {}}
    geometry = [5, [3, 3], [1, 1], [1, 1], [1, 1]]
    tensors = {
        "constants": threshold.view(torch.uint8),
        "weights": _weight_bytes(weight, "masked"),
    }
    description = {
        "version": 1,
        "nodes": [
            ["placeholder", "x", [], options],
            ["get_attr", "threshold", [], options],
            ["call_function", "mbu.pack.default", [{"node": 0}, {"node": 1}], options],
            ["get_attr", "conv_tiles", [], options],
            ["call_function", "mbu.conv2d.default", [{"node": 2}, {"node": 3}, *geometry], options],
            ["output", "output", [{"node": 4}], options],
        ],
        "constants": [["threshold", "float32", [40]]],
        "layers": [
            {"name": "conv", "kind": "masked", "segments": [40], "fused": False, "planes": "conv_planes",
             "tiles": "conv_tiles", "shape": [5, 3, 3, 40]}
        ],
        "input": {"channels": 40, "multiple": 1},
    }  # fmt: skip
    description["sha256"] = _digest(description, tensors)
    header = base64.b64encode(zlib.compress(json.dumps(description).encode())).decode()
    path = tmp_path / "old.mbu"
    path.write_bytes(safetensors.torch.save(tensors, {"mbu": header}))
    x = torch.randn(2, 40, 6, 7)
    signs = torch.where(x >= threshold.view(1, -1, 1, 1), 1.0, -1.0)
    expected = torch.nn.functional.conv2d(signs, weight.permute(0, 3, 1, 2).float(), padding=1)
    old = load(path)
    assert torch.equal(old(x), expected)
    assert torch.equal(load(save(old, tmp_path / "new.mbu"))(x), expected)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated(packed, tmp_path, share):
    path = save(packed, tmp_path / "net.mbu")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="is damaged"):
        load(path)


def test_flipped_bits_never_pass(packed, tmp_path):
    path = save(packed, tmp_path / "net.mbu")
    data = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for position in torch.randint(8, len(data), (40,), generator=generator).tolist():
        broken = bytearray(data)
        broken[position] ^= 1 << (position % 8)
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="damaged|not a packed model|newer|version"):
            load(path)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load(tmp_path / "nothing.mbu")
    (tmp_path / "text.mbu").write_text("hello")
    with pytest.raises(ValueError, match="not a packed model"):
        load(tmp_path / "text.mbu")
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="write one with save"):
        load(tmp_path / "other.safetensors")


def test_a_failed_save_leaves_the_old_file(packed, tmp_path, monkeypatch):
    path = save(packed, tmp_path / "net.mbu")
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save(packed, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["net.mbu"]


def test_what_cannot_be_saved(tmp_path, packed):
    with pytest.raises(TypeError, match="Call convert"):
        save(MBUNet(width=8), tmp_path / "net.mbu")
    with pytest.raises(FileNotFoundError, match="create it"):
        save(packed, tmp_path / "no" / "net.mbu")


@pytest.mark.parametrize("nodes, words", [
    ([["call_function", "aten.from_file.default", ["/etc/passwd"], {"map": {}}]], "not a pure function"),
    ([["call_function", "aten.relu_.default", [], {"map": {}}]], "not a pure function"),
    ([["call_function", "os.system", ["true"], {"map": {}}]], "does not have"),
    ([["call_method", "share_memory_", [], {"map": {}}]], "only calls, constants"),
    ([["get_attr", "weights", [], {"map": {}}]], "does not hold"),
    ([["output", "output", [{"node": 3}], {"map": {}}]], "does not stand before"),
    ([["output", "output", [{"dtype": "load"}], {"map": {}}]], "not a value"),
])  # fmt: skip
def test_hostile_graphs(nodes, words):
    with pytest.raises(ValueError, match=words):
        graph_from_json(nodes, {})
