"""save / load: one safetensors file with the graph as JSON in its header. No pickle, no class of the trained model.

Format, version 1:
    header `mbu`     JSON: version, nodes of the graph (see `graph_json`), layers, input, sha256 of all tensor data
    tensor NAME      a constant of the graph: thresholds, float weights
    tensor NAME.sign, NAME.mask
                     uint8, the weight planes of one packed layer, one bit per weight, in the order [OC, KH, KW, C],
                     least significant bit first, without padding. A binary layer has no mask.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from mbu_ops.packing import pack_weight
from torch import Tensor

from .graph_json import graph_from_json, graph_to_json
from .packed import InputSpec, PackedLayer, PackedModel

FORMAT_VERSION = 1
_HEADER = "mbu"


def save(packed: PackedModel, path: str | Path) -> Path:
    """Writes a packed model to one file; an existing file is replaced only when the new one is complete.

    Args:
        packed: result of `convert` or `load`.
        path: file name, by custom ending in `.mbu`.

    Returns:
        The path.

    Raises:
        TypeError: `packed` is not a packed model.
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    if not isinstance(packed, PackedModel):
        raise TypeError(f"save takes a packed model; this is a {type(packed).__name__}. Call convert(model, x) first.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist; create it, or choose another path.")
    data = _serialize(packed)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def packed_size(packed: PackedModel) -> int:
    """Bytes of the file that `save` would write."""
    return len(_serialize(packed))


def load(path: str | Path) -> PackedModel:
    """Reads a packed model; needs neither the class it was trained with nor any training package.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a packed model, damaged, or written by a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a packed model: {error}. Save it again from the source.") from error
    if header is None:
        raise ValueError(f"{path} is a safetensors file, but not a packed model; write one with save(packed, path).")
    try:
        description = json.loads(header)
        version = description["version"]
        if version > FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {version}; this lightning-mbu reads up to {FORMAT_VERSION}. Upgrade it."
            )
        if description["sha256"] != _digest(description, tensors):
            raise ValueError(f"{path} is damaged: its contents do not match its checksum. Copy or save it again.")
        return _rebuild(description, tensors)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}. Copy or save it again.") from error


def _serialize(packed: PackedModel) -> bytes:
    module = packed.graph_module
    neutral = {layer.planes for layer in packed.layers}
    # A copy each: safetensors refuses tensors that share memory.
    tensors = {
        name: tensor.detach().clone().contiguous()
        for name, tensor in module.state_dict().items() if name not in neutral
    }  # fmt: skip
    shapes = {}
    for layer in packed.layers:
        weight = packed.weight(layer).permute(0, 2, 3, 1)
        shapes[layer.planes] = list(weight.shape)
        tensors[f"{layer.planes}.sign"] = _to_bytes(weight > 0)
        if layer.kind == "masked":
            tensors[f"{layer.planes}.mask"] = _to_bytes(weight != 0)
    description: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "nodes": graph_to_json(module.graph),
        "layers": [{**asdict(layer), "shape": shapes[layer.planes]} for layer in packed.layers],
        "input": asdict(packed.input_spec),
    }
    description["sha256"] = _digest(description, tensors)
    text = json.dumps(description, separators=(",", ":"), allow_nan=False)
    return safetensors.torch.save(tensors, {_HEADER: text})


def _digest(description: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the description and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256()
    content = {key: value for key, value in description.items() if key != "sha256"}
    digest.update(json.dumps(content, separators=(",", ":"), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _to_bytes(bits: Tensor) -> Tensor:
    """Bool, any shape -> uint8 `[ceil(numel / 8)]`, least significant bit first."""
    flat = bits.flatten()
    padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.numel() % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8)).sum(1).to(torch.uint8)


def _from_bytes(data: Tensor, shape: list[int]) -> Tensor:
    """Inverse of `_to_bytes`."""
    count = torch.Size(shape).numel()
    if data.dtype != torch.uint8 or data.numel() != -(-count // 8):
        raise ValueError(f"a weight plane of shape {shape} needs {-(-count // 8)} bytes and has {data.numel()}.")
    bits = (data.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten()[:count].bool().view(shape)


def _rebuild(description: dict[str, Any], tensors: dict[str, Tensor]) -> PackedModel:
    layers, planes_and_tiles = [], {}
    for entry in description["layers"]:
        shape = entry.pop("shape")
        layer = PackedLayer(**{**entry, "segments": tuple(entry["segments"])})
        positive = _from_bytes(tensors.pop(f"{layer.planes}.sign"), shape)
        present = torch.ones_like(positive)
        if layer.kind == "masked":
            present = _from_bytes(tensors.pop(f"{layer.planes}.mask"), shape)
        weight = torch.where(positive, 1, -1).to(torch.int8) * present
        planes = pack_weight(weight.permute(0, 3, 1, 2), layer.segments)
        planes_and_tiles[layer.planes] = planes, True
        planes_and_tiles[layer.tiles] = torch.ops.mbu.tile_weight(planes), False
        layers.append(layer)
    buffers = {name: (tensor, True) for name, tensor in tensors.items()} | planes_and_tiles
    module = graph_from_json(description["nodes"], buffers)
    return PackedModel(module, tuple(layers), InputSpec(**description["input"]))
