"""Rich tables as plain text, for `print` and for logs; the first sentence of a file."""

from __future__ import annotations

import ast
from pathlib import Path

from rich.console import Console, RenderableType


def as_text(renderable: RenderableType, width: int) -> str:
    """What a terminal of `width` columns would show, without colour."""
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def first_sentence(file: Path) -> str:
    """First line of the docstring of a Python file, `""` without one."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
