"""contents: what a packed network holds, layer by layer, read from its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from ..tables import as_text
from .files import packed_size
from .packed import PackedModel


@dataclass(frozen=True)
class PackedContents:
    """One packed convolution.

    Attributes:
        name, kind: the trained layer that it comes from.
        shape: of its weight: output channels, input channels of a group, height, width.
        zeros: share of masked weights, in [0, 1].
        bytes: size of its weight as saved.
        output: what leaves it, `"bits"` or `"float"`.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    zeros: float
    bytes: int
    output: str


@dataclass(frozen=True)
class Contents:
    """Result of `contents`; print it for a table."""

    layers: tuple[PackedContents, ...]
    channels: int
    multiple: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    def __rich__(self) -> Table:
        table = Table(
            title=f"Packed: {len(self.layers)} one-bit layers, {self.bytes / 1e6:.3f} MB; takes {self.channels} channels, "
            f"height and width in multiples of {self.multiple}",
            title_justify="left",
        )
        for heading in ("layer", "kind", "weight", "zeros", "bytes", "output"):
            table.add_column(heading, justify="right" if heading in ("zeros", "bytes") else "left")
        for x in self.layers:
            zeros = f"{x.zeros:.0%}" if x.kind == "masked" else ""
            shape = "x".join(str(n) for n in x.shape)
            table.add_row(x.name, x.kind, shape, zeros, f"{x.bytes:,}", x.output)
        return table

    def __str__(self) -> str:
        return as_text(self, 110)


def contents(packed: PackedModel) -> Contents:
    """Lists the one-bit layers of a packed network, in executed order."""
    layers = []
    for layer in packed.layers:
        weight = packed.weight(layer)
        planes = getattr(packed.graph_module, layer.planes)
        # Saved: both planes of masked weights, the sign plane of binary ones, without the zeros outside a group.
        size = planes.numel() * planes.element_size() // (layer.groups * (1 if layer.kind == "masked" else 2))
        layers.append(
            PackedContents(
                layer.name, layer.kind, tuple(weight.shape), (weight == 0).float().mean().item(), size,
                "bits" if layer.fused else "float",
            )
        )  # fmt: skip
    spec = packed.input_spec
    return Contents(tuple(layers), spec.channels, spec.multiple, packed_size(packed))
