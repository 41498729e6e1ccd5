"""init_from: a network trained in float, from wherever its weights are, as the start of a masked-binary one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from .compiled import inside_compiled, plain_name
from .layers import QuantizedConvolution
from .prepare import quantized_layers
from .residual import BridgedBatchNorm2d

_SHOWN = 3  # names in a message


def init_from(model: nn.Module, source: str | Path | Mapping[str, Any]) -> nn.Module:
    """Gives `model` the parameters of a float network, in place; what masked-binary layers have beside them is fitted
    to these: scales and further planes anew.

    Args:
        model: float or prepared; or a part of one, such as `model.encoder`.
        source: a state dict; a Lightning checkpoint or its file; a `.safetensors` file; or a folder of smp's
            `save_pretrained`. Names may have a prefix (`model.encoder...`, `module...`) and parts of `torch.compile`.

    Returns:
        `model`.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is no file of weights, or parameters are missing or have other shapes; nothing has been
            changed then.
    """
    inside = inside_compiled(model)
    added = _added_names(inside)
    own = {name: value for name, value in inside.state_dict().items() if name not in added}
    wanted = {plain_name(name): value for name, value in own.items()}
    state = _without_prefix(_state_of(source), wanted)
    # Batch norms of old files count no batches, and files hold a weight that two layers share under one name.
    held = {value.data_ptr() for name, value in wanted.items() if name in state}
    missing = [
        name for name, value in wanted.items()
        if name not in state and value.data_ptr() not in held and not name.endswith("num_batches_tracked")
    ]  # fmt: skip
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} parameters are not there: {', '.join(missing[:_SHOWN])}. Give the "
            f"weights of the same network; those given begin with {', '.join(list(state)[:_SHOWN]) or 'nothing'}."
        )
    others = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items() if name in state and state[name].shape != value.shape
    ]  # fmt: skip
    if others:
        raise ValueError(
            f"{len(others)} parameters have another shape: {', '.join(others[:_SHOWN])}. Build the network with the "
            "arguments it was trained with, or give init_from the part that fits, such as model.encoder."
        )
    given = {name: state[plain_name(name)] for name in own if plain_name(name) in state}
    inside.load_state_dict(given, strict=False)
    for _, layer in quantized_layers(inside):
        layer.reset_weights()
    return model


def _added_names(model: nn.Module) -> set[str]:
    """Names in its state that `prepare` has added."""
    beside = {"scale", "threshold", "plane_weight"}
    names = set()
    for place, module in model.named_modules():
        prefix = f"{place}." if place else ""
        if isinstance(module, QuantizedConvolution):
            names |= {prefix + name for name in beside}
            names |= {f"{prefix}weight_quantizer.{n}" for n in module.weight_quantizer.state_dict()}
        if isinstance(module, BridgedBatchNorm2d) and module.shift is not None:
            names |= {f"{prefix}shift.{name}" for name in module.shift.state_dict()}
    return names


def _state_of(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    stored: Any = source
    if not isinstance(source, Mapping):
        path = Path(source)
        path = path / "model.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"there are no weights at {source}.")
        if path.suffix == ".safetensors":
            stored = safetensors.torch.load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    stored = stored.get("state_dict", stored) if isinstance(stored, Mapping) else {}
    found = {name: value for name, value in stored.items() if isinstance(value, Tensor)}
    if not found:
        raise ValueError(f"{source if isinstance(source, str | Path) else 'this'} holds no state dict.")
    return {plain_name(name): value for name, value in found.items()}


def _without_prefix(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` below the prefix under which most of `wanted` is found."""
    example = next(iter(wanted), "")
    prefixes = {
        name.removesuffix(example) for name in state if name == example or name.endswith("." + example)
    }
    best = max(prefixes | {""}, key=lambda prefix: sum(prefix + name in state for name in wanted))
    return {name.removeprefix(best): value for name, value in state.items() if name.startswith(best)}
