"""save / load: one safetensors file, its description as JSON in the header. No pickle, no class of the trained model.

Format, version 2 (small on purpose: a narrow network is a hundred kilobytes, and names would be a tenth of it):
    header `mbu`        base64 of zlib of JSON: version, nodes of the graph (see `graph_json`), constants
                        (name, type, shape), layers, input, rounds_streams, sha256 of all of this and of both tensors
    tensor `constants`  uint8, the bytes of the graph's constants one after another: thresholds, float weights
    tensor `weights`    uint8, the packed layers one after another. A masked layer has its mask, one bit per weight,
                        then a sign bit for each weight that is present; a binary layer has its signs only.
                        Weights in the order [OC, KH, KW, C / groups], least significant bit first, no padding between
                        rows.

Version 1 has convolutions that name the one tensor that they read, not a list to be joined, and no `rounds_streams`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mbu_ops.packing import pack_weight

from ..atomic import write_atomically
from .graph_json import graph_from_json, graph_to_json
from .guards import PackedFileError, Spread, plain_name, shape_of, whole_number
from .packed import InputSpec, PackedLayer, PackedModel

FORMAT_VERSION = 2
_HEADER = "mbu"
_TENSORS = ("constants", "weights")
_LARGEST_DESCRIPTION = 64 * 2**20  # bytes; the graph of a network with ten thousand operations stays below
# Bytes of JSON that one character of the header may become. Networks of four architectures need 5 to 9.
_LARGEST_GROWTH = 64
_TYPES = {
    str(t).removeprefix("torch."): t
    for t in (torch.float32, torch.int32, torch.int64, torch.uint8, torch.bool)
}


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
    if not isinstance(packed, PackedModel):
        raise TypeError(
            f"save takes a packed model; this is a {type(packed).__name__}. Call convert(model, x) first."
        )
    return write_atomically(path, _serialize(packed))


def packed_size(packed: PackedModel) -> int:
    """Bytes of the file that `save` would write."""
    return len(_serialize(packed))


def load(path: str | Path) -> PackedModel:
    """Reads a packed model; needs neither the class it was trained with nor any training package.

    Raises:
        FileNotFoundError: no such file.
        PackedFileError: not a packed model, damaged, or written by a newer version; a kind of ValueError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            names = set(file.keys())
            if header is not None and names != set(_TENSORS):
                raise PackedFileError(f"it holds {sorted(names)!r:.80}, not {list(_TENSORS)}")
            tensors = {name: file.get_tensor(name) for name in _TENSORS} if header is not None else {}
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise PackedFileError(
            f"{path} is damaged or not a packed model: {error}. Save it again from the source."
        ) from error
    if header is None:
        raise PackedFileError(
            f"{path} is a safetensors file, but not a packed model; write one with save(packed, path)."
        )
    try:
        description = json.loads(_inflate(header))
        version = whole_number(description["version"], 1, "its format version")
        if version > FORMAT_VERSION:
            raise PackedFileError(
                f"it has format version {version}; this lightning-mbu reads up to {FORMAT_VERSION}. Upgrade it."
            )
        if description["sha256"] != _digest(description, tensors):
            raise PackedFileError("its contents do not match its checksum.")
        return _rebuild(description, tensors)
    except PackedFileError as error:
        raise PackedFileError(f"{path} is damaged or not for this version: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a strange description runs into, the file is what is wrong
        raise PackedFileError(f"{path} is damaged: {error!r:.300}. Copy or save it again.") from error


def _serialize(packed: PackedModel) -> bytes:
    module = packed.graph_module
    neutral = {layer.planes for layer in packed.layers}
    constants = {name: tensor for name, tensor in module.state_dict().items() if name not in neutral}
    weights = [packed.weight(layer).permute(0, 2, 3, 1) for layer in packed.layers]
    tensors = {
        "constants": torch.cat([_bytes_of(tensor) for tensor in constants.values()]),
        "weights": torch.cat([_weight_bytes(w, x.kind) for w, x in zip(weights, packed.layers, strict=True)]),
    }
    description: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "nodes": graph_to_json(module.graph),
        "constants": [
            [name, str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in constants.items()
        ],
        "layers": [
            {**asdict(x), "shape": list(w.shape)} for w, x in zip(weights, packed.layers, strict=True)
        ],
        "input": asdict(packed.input_spec),
        "rounds_streams": packed.rounds_streams,
    }
    description["sha256"] = _digest(description, tensors)
    text = json.dumps(description, separators=(",", ":"), allow_nan=False)
    header = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    return safetensors.torch.save(tensors, {_HEADER: header})


def _inflate(header: str) -> bytes:
    """The description's JSON; refuses one that would grow beyond what any network needs."""
    limit = min(_LARGEST_DESCRIPTION, _LARGEST_GROWTH * (len(header) + 1024))
    inflater = zlib.decompressobj()
    text = inflater.decompress(base64.b64decode(header, validate=True), limit)
    if inflater.unconsumed_tail:
        raise PackedFileError(f"its description is larger than {limit} bytes.")
    if not inflater.eof:  # the checksum of zlib stands at the end
        raise PackedFileError("its description is cut short.")
    return text


def _digest(description: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the description, without the digest itself, and the bytes of both tensors."""
    content = {key: value for key, value in description.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(content, separators=(",", ":"), sort_keys=True).encode())
    for name in _TENSORS:
        digest.update(_bytes_of(tensors[name]).numpy().tobytes())
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _weight_bytes(weight: Tensor, kind: str) -> Tensor:
    """int8 in {-1, 0, +1}, any shape -> uint8; see the file format."""
    if kind == "binary":
        return _to_bytes(weight > 0)
    return torch.cat([_to_bytes(weight != 0), _to_bytes(weight[weight != 0] > 0)])


def _to_bytes(bits: Tensor) -> Tensor:
    """Bool, any shape -> uint8 `[ceil(numel / 8)]`, least significant bit first."""
    flat = bits.flatten().to(torch.uint8)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8)).sum(1).to(torch.uint8)


class _Reader:
    """Takes pieces off the front of a byte tensor."""

    def __init__(self, data: Tensor):
        if data.dtype != torch.uint8 or data.dim() != 1:
            raise PackedFileError(
                f"a data tensor is {data.dtype} {list(data.shape)}; it must be a row of bytes."
            )
        self.data, self.position = data, 0

    def take(self, count: int) -> Tensor:
        end = self.position + count
        if count < 0 or end > self.data.numel():
            raise PackedFileError(
                f"its data end at byte {self.data.numel()}, before byte {end} that it announces."
            )
        piece, self.position = self.data[self.position : end], end
        return piece

    def finish(self) -> None:
        """Raises where bytes are left: they belong to something that the description does not name."""
        if self.position != self.data.numel():
            raise PackedFileError(f"it holds {self.data.numel()} bytes of data and names {self.position}.")

    def take_bits(self, count: int) -> Tensor:
        """Bool `[count]`; inverse of `_to_bytes`."""
        bits = (self.take(-(-count // 8)).unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
        return bits.flatten()[:count].bool()


def _take_weight(data: _Reader, shape: list[int], kind: str) -> Tensor:
    """Inverse of `_weight_bytes`: int8 of `shape`."""
    count = math.prod(shape)
    if kind == "binary":
        return torch.where(data.take_bits(count), 1, -1).to(torch.int8).view(shape)
    present = data.take_bits(count)
    weight = torch.zeros(count, dtype=torch.int8)
    weight[present] = torch.where(data.take_bits(int(present.sum())), 1, -1).to(torch.int8)
    return weight.view(shape)


def _rebuild(description: dict[str, Any], tensors: dict[str, Tensor]) -> PackedModel:
    buffers: dict[str, tuple[Tensor, bool]] = {}
    data = _Reader(tensors["constants"])
    for name, type_name, sizes in description["constants"]:
        kind, shape = _TYPES[type_name], shape_of(sizes, f"constant {name!r:.80}")
        # Cloned: a piece of the row need not lie where its type wants it aligned.
        piece = data.take(math.prod(shape) * kind.itemsize).clone().view(kind).view(shape)
        buffers[plain_name(name, "a constant")] = piece, True
    data.finish()
    data, layers = _Reader(tensors["weights"]), []
    spread = Spread(tensors["weights"].numel())
    for entry in description["layers"]:
        layer, shape = _layer(entry)
        spread.take(shape, layer.segments, layer.groups, layer.name)
        weight = _take_weight(data, shape, layer.kind)
        planes = pack_weight(weight.permute(0, 3, 1, 2), layer.segments, layer.groups)
        buffers[layer.planes] = planes, True
        buffers[layer.tiles] = torch.ops.mbu.tile_weight(planes), False
        layers.append(layer)
    data.finish()
    nodes = description["nodes"]
    module = graph_from_json(_with_lists(nodes) if description["version"] == 1 else nodes, buffers)
    accepts = InputSpec(**description["input"])
    whole_number(accepts.channels, 1, "its number of input channels")
    whole_number(accepts.multiple, 1, "what its input sizes are multiples of")
    rounded = bool(description.get("rounds_streams", False))
    return PackedModel(module, tuple(layers), accepts, rounds_streams=rounded)


def _layer(entry: dict[str, Any]) -> tuple[PackedLayer, list[int]]:
    """One of the description's layers, and the shape of its weight, `[OC, KH, KW, C / groups]`."""
    shape = shape_of(entry["shape"], "a weight")
    segments = tuple(shape_of(entry["segments"], "the inputs of a layer", 1))
    layer = PackedLayer(
        **{**{key: value for key, value in entry.items() if key != "shape"}, "segments": segments}
    )
    whole_number(layer.groups, 1, "a number of groups")
    if layer.kind not in ("masked", "binary") or len(shape) != 4 or min(shape[1:]) < 1:
        raise PackedFileError(f"a layer is {layer.kind!r:.80} of shape {shape}; none can be like that.")
    plain_name(layer.planes, "a weight")
    plain_name(layer.tiles, "a weight")
    return layer, shape


def _with_lists(nodes: list[list[Any]]) -> list[list[Any]]:
    """Nodes of version 1 as version 2 has them."""
    return [
        [op, target, [[arguments[0]], *arguments[1:]], options]
        if op == "call_function" and target.startswith("mbu.conv")
        else [op, target, arguments, options]
        for op, target, arguments, options in nodes
    ]
