"""Rich tables as plain text, for `print` and for logs."""

from __future__ import annotations

from rich.console import Console, RenderableType


def as_text(renderable: RenderableType, width: int) -> str:
    """What a terminal of `width` columns would show, without colour."""
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()
