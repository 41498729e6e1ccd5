"""summary: one line per convolution: part, kind, multiply-adds, bits, bytes, zeros."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn

from .health import mask_density, weight_states
from .layers import QuantizedConvolution
from .roles import assign_roles
from .tables import as_text
from .trace import trace


@dataclass(frozen=True)
class LayerSummary:
    """One convolution.

    Attributes:
        name, role: the layer and its part in the network.
        kind: `"masked"`, `"binary"` or `"float"`.
        shape: of its output, `(N, C, H, W)`; of the last call where it runs more than once.
        macs: multiply-adds for one run of the input.
        weights: entries of its weight.
        bits: bits per weight once packed; 32 for float.
        zeros: share of masked weights, 0 for other kinds.
    """

    name: str
    role: str
    kind: str
    shape: tuple[int, ...]
    macs: int
    weights: int
    bits: int
    zeros: float

    @property
    def bytes(self) -> int:
        """Size of the packed weight."""
        return -(-self.weights * self.bits // 8)


@dataclass(frozen=True)
class Summary:
    """Result of `summary`; print it for a table."""

    layers: tuple[LayerSummary, ...]
    input_shape: tuple[int, ...]

    @property
    def one_bit_macs(self) -> int:
        return sum(layer.macs for layer in self.layers if layer.kind != "float")

    @property
    def float_macs(self) -> int:
        return sum(layer.macs for layer in self.layers if layer.kind == "float")

    @property
    def compression(self) -> float:
        """Bytes of the convolution weights in float, over those packed."""
        return sum(4 * x.weights for x in self.layers) / max(sum(x.bytes for x in self.layers), 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "input_shape": list(self.input_shape), "one_bit_macs": self.one_bit_macs, "float_macs": self.float_macs,
            "compression": self.compression, "layers": [{**asdict(x), "bytes": x.bytes} for x in self.layers],
        }  # fmt: skip

    def __rich__(self) -> Table:
        size = "x".join(str(n) for n in self.input_shape)
        table = Table(
            title=f"{self.one_bit_macs / 1e9:.2f} GMAC one-bit, {self.float_macs / 1e9:.2f} GMAC float at {size}; "
            f"convolution weights {sum(x.bytes for x in self.layers) / 1e6:.3f} MB, "
            f"{sum(4 * x.weights for x in self.layers) / 1e6:.2f} MB in float ({self.compression:.1f}x)",
            title_justify="left",
        )
        for heading in ("layer", "role", "kind", "output", "MMAC", "weights", "bits", "bytes", "zeros"):
            table.add_column(heading, justify="left" if heading in ("layer", "role", "kind") else "right")
        for x in self.layers:
            zeros = f"{x.zeros:.0%}" if x.kind == "masked" else ""
            table.add_row(
                x.name,
                x.role,
                x.kind,
                "x".join(str(n) for n in x.shape[1:]),
                f"{x.macs / 1e6:,.1f}",
                f"{x.weights:,}",
                str(x.bits),
                f"{x.bytes:,}",
                zeros,
            )
        return table

    def __str__(self) -> str:
        return as_text(self, 120)


def summary(model: nn.Module, input_size: tuple[int, ...]) -> Summary:
    """Per-layer table of a float or prepared model.

    Args:
        model: any module that takes one tensor.
        input_size: `(N, C, H, W)`.

    Raises:
        ValueError: the model does not run on an input of this size.
    """
    parameter = next(model.parameters(), torch.empty(0))
    traced = trace(model, torch.empty(input_size, dtype=parameter.dtype))
    convolutions = traced.convolutions()
    roles = assign_roles(convolutions)
    layers = []
    for name, calls in convolutions.items():
        module = model.get_submodule(name)
        quantized = isinstance(module, QuantizedConvolution)
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        layers.append(
            LayerSummary(
                name,
                roles[name],
                module.kind if quantized else "float",
                calls[-1].shape,
                sum(op.macs for op in calls),
                weight.numel(),
                module.weight_quantizer.precision if quantized else weight.element_size() * 8,
                1 - mask_density(weight_states(module)) if quantized and module.kind == "masked" else 0.0,
            )
        )
    return Summary(tuple(layers), tuple(input_size))
