"""The layers of a packed network on the report page, with bars for zeros and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class LayerBar:
    """One packed layer.

    Args:
        name, kind: the layer, and `"masked"` or `"binary"`.
        zeros: share of its weights that are masked, in [0, 1].
        bytes: size of its packed weight.
        output: what leaves it, `"bits"` or `"float"`.

    Raises:
        ValueError: `zeros` is no share.
    """

    name: str
    kind: str
    zeros: float
    bytes: int
    output: str

    def __post_init__(self) -> None:
        if not 0 <= self.zeros <= 1:
            raise ValueError(f"zeros={self.zeros} of layer {self.name!r} must be a share, in [0, 1].")


def layers_html(layers: Sequence[LayerBar]) -> str:
    """The section of the page."""
    largest = max(max(layer.bytes for layer in layers), 1)

    def bar(share: float, text: str) -> str:
        return f'<td class="bar"><i style="--share:{share:.3f}"></i><b>{text}</b></td>'

    rows = "".join(
        f"<tr><td>{escape(layer.name)}</td><td>{escape(layer.kind)}</td>"
        + (bar(layer.zeros, f"{layer.zeros:.0%}") if layer.kind == "masked" else "<td></td>")
        + bar(layer.bytes / largest, f"{layer.bytes:,}")
        + f"<td>{escape(layer.output)}</td></tr>"
        for layer in layers
    )
    heads = "".join(f"<th>{name}</th>" for name in ("layer", "kind", "zeros", "bytes", "output"))
    return (
        f'<section><h2>Layers</h2><div class="wide"><table class="layers"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )
