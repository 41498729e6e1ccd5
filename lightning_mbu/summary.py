"""summary: one line per convolution and linear layer: part, kind, shapes, multiply-adds, bytes, mask density, kernel."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn

from mbu_ops.backends import serving_kernel

from .compiled import inside_compiled
from .health import mask_density, weight_states
from .layers import QuantizedConvolution
from .linear import linear_calls
from .roles import assign_roles
from .tables import as_text
from .trace import trace


@dataclass(frozen=True)
class LayerSummary:
    """One convolution or linear layer.

    Attributes:
        name, role: the layer and its part in the network; the role of a linear layer is `"linear"`.
        kind: `"masked"`, `"binary"` or `"float"`.
        shape: of its output, `(N, C, H, W)`, or `(rows, features)` of a linear layer; of the last call where it runs
            more than once.
        weight_shape: of its weight.
        macs: multiply-adds for one run of the input.
        weights: entries of its weight.
        bits: bits per weight once packed; 32 for float.
        zeros: share of masked weights, 0 for other kinds.
        kernel: what will run it once packed, by the name that `mbu doctor` shows; `"torch"` for float layers.
    """

    name: str
    role: str
    kind: str
    shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    macs: int
    weights: int
    bits: int
    zeros: float
    kernel: str

    @property
    def mask_density(self) -> float:
        """Share of the weights that are present, in [0, 1]."""
        return 1 - self.zeros

    @property
    def bytes(self) -> int:
        """Size of the packed weight."""
        return -(-self.weights * self.bits // 8)


@dataclass(frozen=True)
class Summary:
    """Result of `summary`; print it for a table.

    Attributes:
        layers: in executed order.
        input_shape: that the multiply-adds are for.
        other_macs: multiply-adds outside the layers listed (attention), in float.
    """

    layers: tuple[LayerSummary, ...]
    input_shape: tuple[int, ...]
    other_macs: int = 0

    @property
    def one_bit_macs(self) -> int:
        return sum(layer.macs for layer in self.layers if layer.kind != "float")

    @property
    def float_macs(self) -> int:
        return sum(layer.macs for layer in self.layers if layer.kind == "float")

    @property
    def compression(self) -> float:
        """Bytes of the layers' weights in float, over those packed."""
        return sum(4 * x.weights for x in self.layers) / max(sum(x.bytes for x in self.layers), 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "input_shape": list(self.input_shape), "one_bit_macs": self.one_bit_macs, "float_macs": self.float_macs,
            "other_macs": self.other_macs, "compression": self.compression,
            "layers": [{**asdict(x), "bytes": x.bytes, "mask_density": x.mask_density} for x in self.layers],
        }  # fmt: skip

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    def __rich__(self) -> Table:
        size = _sizes(self.input_shape)
        other = f" and {self.other_macs / 1e9:.2f} GMAC of attention" if self.other_macs else ""
        table = Table(
            title=f"{self.one_bit_macs / 1e9:.2f} GMAC one-bit, {self.float_macs / 1e9:.2f} GMAC float{other} at {size}; "
            f"weights {sum(x.bytes for x in self.layers) / 1e6:.3f} MB, "
            f"{sum(4 * x.weights for x in self.layers) / 1e6:.2f} MB in float ({self.compression:.1f}x)",
            title_justify="left",
        )
        left = ("layer", "role", "kind", "kernel")
        for heading in (
            "layer",
            "role",
            "kind",
            "weight",
            "output",
            "MMAC",
            "bits",
            "bytes",
            "density",
            "kernel",
        ):
            table.add_column(heading, justify="left" if heading in left else "right")
        for x in self.layers:
            output = x.shape if x.role == "linear" else x.shape[1:]
            table.add_row(
                x.name, x.role, x.kind, _sizes(x.weight_shape), _sizes(output), f"{x.macs / 1e6:,.1f}",
                str(x.bits), f"{x.bytes:,}", f"{x.mask_density:.0%}" if x.kind == "masked" else "", x.kernel,
            )  # fmt: skip
        return table

    def __str__(self) -> str:
        return as_text(self, 140)


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)


def _kernel_on(device: str) -> str:
    try:
        return serving_kernel(device)
    except RuntimeError as error:
        if device != "cpu":
            raise ValueError(f"device={device!r}: {error}") from error
        return "none compiled"  # an install for training alone


def summary(model: nn.Module, input_size: tuple[int, ...], device: str = "cpu") -> Summary:
    """Per-layer table of a float or prepared model.

    Args:
        model: any module that takes one tensor.
        input_size: `(N, C, H, W)`.
        device: where it will run once packed, `"cpu"` or `"cuda"`; decides the kernels.

    Raises:
        ValueError: the model does not run on an input of this size, or there is no such device.
    """
    model, kernel = inside_compiled(model), _kernel_on(device)
    parameter = next(model.parameters(), torch.empty(0))
    traced = trace(model, torch.empty(input_size, dtype=parameter.dtype))
    convolutions = traced.convolutions()
    roles = assign_roles(convolutions)
    found = {**convolutions, **linear_calls(traced, model)}
    layers = []
    for name, calls in sorted(found.items(), key=lambda item: item[1][0].index):
        module = model.get_submodule(name)
        quantized = isinstance(module, QuantizedConvolution)
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        layers.append(
            LayerSummary(
                name,
                roles.get(name, "linear"),
                module.kind if quantized else "float",
                calls[-1].shape,
                tuple(weight.shape),
                sum(op.macs for op in calls),
                weight.numel(),
                module.weight_quantizer.precision if quantized else weight.element_size() * 8,
                1 - mask_density(weight_states(module)) if quantized and module.kind == "masked" else 0.0,
                kernel if quantized else "torch",
            )
        )
    listed = sum(layer.macs for layer in layers)
    all_macs = sum(op.macs for op in traced.operations)
    return Summary(tuple(layers), tuple(input_size), all_macs - listed)
