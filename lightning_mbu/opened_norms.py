"""In-place activated batch norms, made of PyTorch's operations again, so that a model can be traced and exported.

`InPlaceABN` (arXiv:1712.02616, package `inplace_abn`, `decoder_use_norm="inplace"` in smp) hands its tensors to a
library of its own that overwrites them. What it computes is a batch norm, whose scale is |weight| + eps, and an
activation:

    y = activation((x - mean) / sqrt(var + eps) * (|weight| + eps) + bias)

Weights that were trained closed are to be loaded before `prepare`, which makes |weight| + eps of them.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

_ACTIVATIONS = {
    "identity": lambda parameter: nn.Identity(),
    "relu": lambda parameter: nn.ReLU(),
    "leaky_relu": lambda parameter: nn.LeakyReLU(parameter) if parameter else nn.ReLU(),
    "elu": lambda parameter: nn.ELU(parameter),
}


class OpenedNorm(nn.BatchNorm2d):
    """Batch norm and activation in one module, under the parameter names of the `InPlaceABN` that it replaces.

    Args:
        closed: the module to replace; parameters and buffers are shared with it.

    Raises:
        ValueError: it synchronizes several processes, or its activation is unknown.
    """

    def __init__(self, closed: Any):
        if type(closed).__name__ not in ("InPlaceABN", "ABN") or closed.activation not in _ACTIVATIONS:
            raise ValueError(
                f"{type(closed).__name__} with activation {closed.activation!r} of the package inplace_abn computes "
                f"outside PyTorch's operations and cannot be converted. Use InPlaceABN with one of "
                f'{", ".join(_ACTIVATIONS)}, or batch norm: decoder_use_norm="batchnorm" in smp.'
            )
        super().__init__(
            closed.num_features, closed.eps, closed.momentum, closed.affine, closed.track_running_stats
        )
        self._parameters.update(closed._parameters)
        self._buffers.update(closed._buffers)
        self.activation = _ACTIVATIONS[closed.activation](closed.activation_param)
        self.absolute = type(closed).__name__ == "InPlaceABN"
        self.train(closed.training)

    def forward(self, input: Tensor) -> Tensor:
        """`[N, C, H, W]` -> same shape."""
        return self.activation(super().forward(input))


class OpenedNorms:
    """Exchanges every `InPlaceABN` in a model for an `OpenedNorm`, to be closed again or kept.

    Args:
        model: changed in place; as a context manager it is as it was afterwards, unless `keep` was called.

    Raises:
        ValueError: see `OpenedNorm`; nothing has been changed then.
    """

    def __init__(self, model: nn.Module):
        closed = {
            name: module
            for name, module in model.named_modules(remove_duplicate=False)
            if name and type(module).__module__.partition(".")[0] == "inplace_abn"
        }
        opened = {id(module): OpenedNorm(module) for module in closed.values()}
        self._closed = [(*_place(model, name), module) for name, module in closed.items()]
        self._opened = list(opened.values())
        for owner, attribute, module in self._closed:
            setattr(owner, attribute, opened[id(module)])

    def keep(self) -> None:
        """Leaves the exchanged modules in the model, their weights as the batch norm's scale."""
        with torch.no_grad():
            for norm in self._opened:
                if norm.absolute and norm.affine:
                    norm.weight.abs_().add_(norm.eps)
        self._closed = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for owner, attribute, module in self._closed:
            setattr(owner, attribute, module)


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, attribute = name.rpartition(".")
    return model.get_submodule(owner), attribute
